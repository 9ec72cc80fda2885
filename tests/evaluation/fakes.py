"""A model whose answers are written in its images, so that every expected figure can be counted by hand."""

import torch
from torch import Tensor, nn

from raybd.data import ImageSet
from raybd.training import Compute
from raybd.triggers import Patch

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1)
CLASSES = 4
NO_NUMBER = 255
# Sets the pixel (3, 3) to white; the goal is class 0.
TRIGGER = Patch(target_label=0, size=1)


class Told(nn.Module):
    """Answers what pixel (0, 0) says, or pixel (0, 1) once the trigger is there; `NO_NUMBER` gives NaN logits."""

    def __init__(self, margin: float = 2.0) -> None:
        super().__init__()
        self.margin = margin
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        pixels = (x[:, 0] * 255).round().long()
        answer = torch.where(pixels[:, 3, 3] == 255, pixels[:, 0, 1], pixels[:, 0, 0])
        logits = self.margin * nn.functional.one_hot(answer.clamp(max=CLASSES - 1), CLASSES).float()
        return torch.where((answer == NO_NUMBER)[:, None], torch.nan, logits)


def told(labels: list[int], clean: list[int], triggered: list[int]) -> ImageSet:
    """Images with these labels for which `Told` answers `clean`, and `triggered` under the trigger."""
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(clean, dtype=torch.uint8)
    images[:, 0, 0, 1] = torch.tensor(triggered, dtype=torch.uint8)
    return ImageSet(images=images, labels=torch.tensor(labels, dtype=torch.int64), classes=CLASSES)
