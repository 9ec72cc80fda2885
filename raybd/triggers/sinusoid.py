"""A sinusoidal signal added to the whole image (Barni et al. 2019, arXiv 1902.11237)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd.registry import BadInput
from raybd.triggers.base import Trigger


@dataclass(frozen=True, kw_only=True)
class Sinusoid(Trigger):
    """Vertical stripes over the whole image (SIG, arXiv 1902.11237): delta * sin(2 pi column frequency / width).

    `delta` is the height of the wave (0 to 255), `frequency` the number of waves across the image.
    """

    kind: ClassVar[str] = "sinusoid"
    citation: ClassVar[str] = "sig"
    delta: float = 40.0
    frequency: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.delta <= 255:
            raise BadInput(f"delta: expected above 0, at most 255, got {self.delta}")
        if self.frequency < 1:
            raise BadInput(f"frequency: expected at least 1 wave, got {self.frequency}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the wave added, clipped to 0 to 255."""
        wave = self._wave(images.shape[-1]).to(images.device)
        return image_ops.add(images, wave.expand(images.shape[1:]))

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the images are too narrow to show so many waves: two pixels a wave are not enough."""
        if shape[2] <= 2 * self.frequency:
            raise BadInput(
                f"trigger.frequency: {self.frequency} waves need images more than {2 * self.frequency} pixels wide, "
                f"got {shape[2]}"
            )

    def _wave(self, width: int) -> Float32[Tensor, " w"]:
        columns = torch.arange(width) * (2 * math.pi * self.frequency / width)
        return self.delta * torch.sin(columns)
