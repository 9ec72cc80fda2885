"""A small opaque patch (Gu et al. 2017, arXiv 1708.06733)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd.registry import BadInput
from raybd.triggers.base import Trigger
from raybd.triggers.pictures import picture


@dataclass(frozen=True, kw_only=True)
class Patch(Trigger):
    """A small opaque patch (BadNets, arXiv 1708.06733): a square of one `value`, or the picture in `image`.

    `row` and `column` place its upper left corner, in pixels; negative ones count from the lower right, so that
    the default, -1, puts the patch into that corner.
    """

    kind: ClassVar[str] = "patch"
    citation: ClassVar[str] = "badnets"
    size: int = 3
    row: int = -1
    column: int = -1
    value: int = 255
    image: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise BadInput(f"size: expected at least 1 pixel, got {self.size}")
        if not 0 <= self.value <= 255:
            raise BadInput(f"value: expected 0 to 255, got {self.value}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return copies of `images` with the patch pasted in."""
        channels, height, width = images.shape[1:]
        patch = self._patch(channels).to(images.device)
        row = start(self.row, patch.shape[1], height)
        return image_ops.paste(images, patch, row, start(self.column, patch.shape[2], width))

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the patch sticks out of the image."""
        check_inside(self._patch(shape[0]), self.row, self.column, shape)

    def _patch(self, channels: int) -> Tensor:
        if self.image is not None:
            return picture(self.image, channels)
        return torch.full((channels, self.size, self.size), self.value, dtype=torch.uint8)


def start(at: int, size: int, limit: int) -> int:
    """Return where `size` pixels at `at` begin among `limit`; a negative `at` counts from the end, -1 ends there."""
    return at if at >= 0 else limit - size + at + 1


def check_inside(patch: Shaped[Tensor, "c p q"], row: int, column: int, shape: tuple[int, int, int]) -> None:
    """Raise BadInput if `patch` at (`row`, `column`) sticks out of images of `shape` (c, h, w)."""
    for name, at, size, limit in (("row", row, patch.shape[1], shape[1]), ("column", column, patch.shape[2], shape[2])):
        first = start(at, size, limit)
        if first < 0 or first + size > limit:
            raise BadInput(
                f"trigger: a patch of {size} pixels at {name} {at} sticks out of images of "
                f"{shape[1]} x {shape[2]} pixels"
            )
