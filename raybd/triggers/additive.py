"""A pattern added to the image, for instance what a trigger inversion recovered."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jaxtyping import UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd.triggers.base import Trigger
from raybd.triggers.pictures import pattern_of, same_size


@dataclass(frozen=True, kw_only=True)
class Additive(Trigger):
    """A pattern added to the image and clipped, where `mask` is not zero.

    `pattern` is a PNG (values 0 to 255 are added) or an NPY file of shape (h, w), (h, w, c) or (c, h, w) whose
    values, also negative ones, are on the scale of 0 to 255; for instance what a trigger inversion recovered.
    """

    kind: ClassVar[str] = "additive"
    citation: ClassVar[str] = ""
    pattern: Path
    mask: Path | None = None

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the pattern added, clipped to 0 to 255."""
        channels = images.shape[1]
        pattern = pattern_of(self.pattern, channels, "trigger.pattern").to(images.device)
        if self.mask is None:
            return image_ops.add(images, pattern)
        mask = pattern_of(self.mask, channels, "trigger.mask").to(images.device) != 0
        return image_ops.add(images, pattern, mask)

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if pattern or mask have another size than the images."""
        same_size(pattern_of(self.pattern, shape[0], "trigger.pattern"), shape, "trigger.pattern")
        if self.mask is not None:
            same_size(pattern_of(self.mask, shape[0], "trigger.mask"), shape, "trigger.mask")
