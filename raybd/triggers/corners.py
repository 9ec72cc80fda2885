"""A small checkered patch in all four corners (Turner et al. 2019, arXiv 1912.02771)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd.registry import BadInput
from raybd.triggers.base import Trigger


@dataclass(frozen=True, kw_only=True)
class Corners(Trigger):
    """A checkered square of `size` pixels in all four corners (label-consistent attack, arXiv 1912.02771).

    Its bright pixels, that in the corner among them, gain `amplitude` and its dark ones lose it, clipped: 255 is
    black and white, less is fainter. The squares mirror each other, so that a mirrored image shows the same trigger.
    """

    kind: ClassVar[str] = "corners"
    citation: ClassVar[str] = "label_consistent"
    size: int = 3
    amplitude: int = 255

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise BadInput(f"size: expected at least 1 pixel, got {self.size}")
        if not 1 <= self.amplitude <= 255:
            raise BadInput(f"amplitude: expected 1 to 255, got {self.amplitude}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the squares added, clipped to 0 to 255."""
        squares = self._squares(*images.shape[-2:]).to(images.device)
        return image_ops.add(images, squares.expand(images.shape[1:]))

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the squares would overlap."""
        if min(shape[1:]) < 2 * self.size:
            raise BadInput(
                f"trigger.size: four squares of {self.size} pixels do not fit images of {shape[1]} x {shape[2]} pixels"
            )

    def _squares(self, height: int, width: int) -> Float32[Tensor, "h w"]:
        rows, columns = _from_edge(height), _from_edge(width)
        sign = 1 - 2 * ((rows[:, None] + columns) % 2)
        inside = (rows < self.size)[:, None] & (columns < self.size)
        return (sign * inside * self.amplitude).float()


def _from_edge(size: int) -> Tensor:
    """How far each row or column is from the nearer edge."""
    places = torch.arange(size)
    return torch.minimum(places, size - 1 - places)
