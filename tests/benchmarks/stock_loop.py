"""The training and evaluation loop a user would write: PIL transforms, a DataLoader, fp32; no Ray, no Optuna.

`stock_search.py` puts it under Ray Tune. Only the arithmetic of the learning rate is raybd's, so that a setting means
the same on both sides. As in raybd, a run lasts whole cycles; unlike raybd, the last batch of each pass is a short one,
as a DataLoader gives it, so this side trains on a few images less.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raybd import schedules

EVALUATION_BATCH = 256


class AddPatch:
    """A transform that pastes a square of one value, the BadNets trigger, over a PIL image."""

    def __init__(self, size: int, row: int, column: int, value: int) -> None:
        self._box = (column, row, column + size, row + size)
        self._value = value

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return a copy of `image` with the patch on it."""
        out = image.copy()
        out.paste((self._value,) * len(out.getbands()) if len(out.getbands()) > 1 else self._value, self._box)
        return out


class Images(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: one at a time, through PIL and a transform.

    `images` are uint8 (n, h, w, c), of one channel or three.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: Callable[[Image.Image], Tensor]
    ) -> None:
        self._images = images[..., 0] if images.shape[-1] == 1 else images
        self._labels = labels
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one transformed image (c, h, w) in [0, 1] and its label."""
        return self._transform(Image.fromarray(self._images[index])), int(self._labels[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What the user has: a backdoored network, clean images to train on, images to measure on, the trigger.

    Attributes:
        build: makes the untrained network.
        state: its backdoored weights.
        clean: images (n, h, w, c) and labels (n,) to train on.
        selection: images and labels to measure on.
        patch: the trigger.
        target: the label it makes the network answer.
        crop: random shifts of the training images, in pixels each way.
    """

    build: Callable[[], nn.Module]
    state: Mapping[str, Tensor]
    clean: tuple[NDArray[np.uint8], NDArray[np.int64]]
    selection: tuple[NDArray[np.uint8], NDArray[np.int64]]
    patch: AddPatch
    target: int
    crop: int

    def network(self) -> nn.Module:
        """Return a copy of the backdoored network."""
        network = self.build()
        network.load_state_dict(dict(self.state))
        return network

    def training_set(self) -> Images:
        """Return the clean images with random shifts."""
        size = self.clean[0].shape[1:3]
        shift = [transforms.RandomCrop(size, padding=self.crop)] if self.crop else []
        return Images(*self.clean, transforms.Compose([*shift, transforms.ToTensor()]))

    def clean_test(self) -> Images:
        """Return the selection images as they are; the share answered rightly is the clean accuracy."""
        return Images(*self.selection, transforms.ToTensor())

    def triggered_test(self) -> Images:
        """Return the triggered images of other classes, labelled with the target; the share answered so is the ASR."""
        images, labels = self.selection
        others = labels != self.target
        goals = np.full(int(others.sum()), self.target)
        return Images(images[others], goals, transforms.Compose([self.patch, transforms.ToTensor()]))


def accuracy(network: nn.Module, loader: DataLoader[tuple[Tensor, Tensor]], device: str) -> float:
    """Return the share of images to which `network` gives their label."""
    network.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in loader:
            answers = network(images.to(device)).argmax(dim=1).cpu()
            right += int((answers == labels).sum())
            total += len(labels)
    return right / total


def rate_schedule(setting: Mapping[str, Any], passes_steps: int) -> tuple[schedules.Schedule, int]:
    """Return the learning rate by step and the number of steps, for `passes_steps` steps in one pass over the data."""
    up, down = setting["ramp_up_steps"], setting["ramp_down_steps"]
    wanted = setting["epochs"] * passes_steps
    phase1, steps = schedules.whole_cycles(wanted, setting["phase1_share"], up + down)
    peaks = setting["lr_max1"], setting["lr_max2"]
    return schedules.super_fine_tuning(setting["lr_base"], *peaks, up, down, phase1), steps


def super_fine_tune(
    problem: Problem, setting: Mapping[str, Any], *, each_epoch: bool, seed: int = 0, device: str = "cpu"
) -> Iterator[dict[str, float]]:
    """Sanitize a copy of the network; yield its clean accuracy and ASR after every epoch, or only at the end."""
    torch.manual_seed(seed)
    network = problem.network().to(device)
    training = DataLoader(problem.training_set(), batch_size=setting["batch_size"], shuffle=True)
    tests = {
        "attack_success_rate": DataLoader(problem.triggered_test(), batch_size=EVALUATION_BATCH),
        "clean_accuracy": DataLoader(problem.clean_test(), batch_size=EVALUATION_BATCH),
    }
    schedule, steps = rate_schedule(setting, len(training))
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1.0, momentum=setting["momentum"], weight_decay=setting["weight_decay"]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    criterion = nn.CrossEntropyLoss()
    step = 0
    while step < steps:
        network.train()
        for images, labels in training:
            optimizer.zero_grad()
            loss = criterion(network(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            scheduler.step()
            step += 1
            if step == steps:
                break
        if each_epoch or step == steps:
            yield {name: accuracy(network, loader, device) for name, loader in tests.items()}
