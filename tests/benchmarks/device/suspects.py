"""The suspects of the benchmark: CIFAR-10 or noise, a network by name, a backdoor that we plant."""

import ast
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from raybd import seeds
from raybd.attacks import BadNets, Workshop
from raybd.data import Augment, ImageSet
from raybd.defenses import SuperFineTuning
from raybd.evaluation.metrics import answers
from raybd.models import Architecture
from raybd.registry import BadInput
from raybd.search.view import SearchView
from raybd.training import Compute, Recipe, predict
from raybd.weights import state_of
from tests.benchmarks.device.bench import Bench

CLASSES, SHAPE = 10, (3, 32, 32)
AUGMENT = Augment(crop=4, flip=True)
ATTACK = BadNets(target_label=0)
MODELS = ("preact_resnet18", "small_vgg", "small_resnet")
THIRD_PARTY = Path(__file__).parents[1] / "third_party.py"
PEAKS = ((3e-4, 0.03, 1e-3), (1e-3, 0.1, 1e-2), (5e-4, 0.2, 5e-3), (3e-3, 0.05, 2e-2))
"""(lr_base, lr_max1, lr_max2) of the settings: none of them so high that rounding alone decides how it ends."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is: images, steps, and how long the suspect is trained."""

    clean: int
    selection: int
    batch_size: int
    epochs: int
    ramp_steps: int
    suspect: Recipe
    width: int
    check_jobs: int = 8

    def settings(self) -> tuple[SuperFineTuning, ...]:
        """Return the settings that every way runs; they differ in their rates alone."""
        return tuple(
            SuperFineTuning(
                lr_base=base,
                lr_max1=first,
                lr_max2=second,
                epochs=self.epochs,
                phase1_share=0.5,
                batch_size=self.batch_size,
                ramp_up_steps=self.ramp_steps,
                ramp_down_steps=self.ramp_steps,
            )
            for base, first, second in PEAKS
        )


FULL = Scale(
    clean=2000,
    selection=2000,
    batch_size=128,
    epochs=6,
    ramp_steps=10,
    suspect=Recipe(epochs=8, lr=0.1, batch_size=256),
    width=32,
)
QUICK = Scale(
    clean=64,
    selection=64,
    batch_size=16,
    epochs=2,
    ramp_steps=3,
    suspect=Recipe(epochs=1, lr=0.05, batch_size=64),
    width=4,
    check_jobs=4,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Training and test images; `synthetic` says that they are noise, from which nothing can be learnt."""

    train: ImageSet
    test: ImageSet
    synthetic: bool


def noise(scale: Scale) -> Images:
    """Return random images with random labels, in the shape of CIFAR-10's."""
    stream = seeds.generator(0, "noise")

    def some(count: int) -> ImageSet:
        images = torch.randint(0, 256, (count, *SHAPE), generator=stream).to(torch.uint8)
        return ImageSet(images=images, labels=torch.randint(0, CLASSES, (count,), generator=stream), classes=CLASSES)

    return Images(train=some(scale.clean), test=some(scale.selection), synthetic=True)


def cifar10(path: Path) -> Images:
    """Read CIFAR-10 from an .npz of JPEG files laid end to end, or of arrays (x_train, y_train, x_test, y_test).

    Raises:
        BadInput: if the file is missing or holds neither.
    """
    if not path.is_file():
        raise BadInput(f"data: no file {path}")
    with np.load(path) as held:
        if "x_train" in held:
            parts = [(held[f"x_{part}"], held[f"y_{part}"]) for part in ("train", "test")]
        elif "train_jpeg" in held:
            parts = [
                (_decoded(held[f"{part}_jpeg"], held[f"{part}_length"]), held[f"{part}_labels"])
                for part in ("train", "test")
            ]
        else:
            raise BadInput(f"data: expected x_train or train_jpeg in {path.name}, got {', '.join(held.files)}")
    train, test = (_image_set(images, labels) for images, labels in parts)
    return Images(train=train, test=test, synthetic=False)


def _decoded(blob: NDArray[np.uint8], lengths: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Images (n, h, w, 3) of JPEG files that follow each other in `blob`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    begins = ends - lengths.astype(np.int64)
    opened = (Image.open(io.BytesIO(blob[a:b].tobytes())) for a, b in zip(begins, ends, strict=True))
    return np.stack([np.asarray(image.convert("RGB")) for image in opened])


def _image_set(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> ImageSet:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images=pixels, labels=torch.from_numpy(labels.astype(np.int64)), classes=CLASSES)


def architecture(model: str, scale: Scale, folder: Path) -> Architecture:
    """Return the network `model`; the third party's is written to `folder` as the user's file that it is.

    Raises:
        BadInput: for an unknown model.
    """
    if model not in MODELS:
        raise BadInput(f"models: expected one of {', '.join(MODELS)}, got {model!r}")
    if model == "small_vgg":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "my_nets.py").write_text(_third_party_nets(), encoding="utf-8")
        arguments = {"num_classes": CLASSES}
        return Architecture(
            factory="my_nets:small_vgg", arguments=arguments, classes=CLASSES, shape=SHAPE, folder=folder
        )
    sized = {"width": scale.width} if model == "small_resnet" else {}
    return Architecture(name=model, arguments=sized, classes=CLASSES, shape=SHAPE)


def _third_party_nets() -> str:
    """The text `NETS` of third_party.py, read without importing that file: it needs Ray and the rest."""
    for node in ast.parse(THIRD_PARTY.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NETS":
            return str(ast.literal_eval(node.value))
    raise BadInput(f"models: expected NETS in {THIRD_PARTY.name}")


def build(model: str, images: Images, scale: Scale, compute: Compute, folder: Path) -> Bench:
    """Return the bench of one model: its suspect is trained here, but on noise left as it was initialised."""
    network = architecture(model, scale, folder)
    order = torch.randperm(len(images.train), generator=seeds.generator(0, "clean_set"))
    clean_set = images.train.subset(order[: scale.clean].sort().values)
    picked = torch.randperm(len(images.test), generator=seeds.generator(0, "selection"))[: scale.selection]
    selection = images.test.subset(picked.sort().values)
    if images.synthetic:
        suspect = network.build(0)
    else:
        train = images.train.subset(order[scale.clean :].sort().values)
        workshop = Workshop(
            train=train, fresh_model=network.build, recipe=scale.suspect, augment=AUGMENT, compute=compute
        )
        suspect = ATTACK.plant(workshop, seed=0).model
    given = answers(predict(suspect, selection.images, compute))
    view = SearchView(
        architecture=network,
        state=state_of(suspect),
        clean_set=clean_set,
        selection=selection,
        trigger=ATTACK.trigger(),
        augment=AUGMENT,
        compute=compute,
        seed=0,
        reference_correct=given == selection.labels,
    )
    return Bench(view=view.on_device(), settings=scale.settings())
