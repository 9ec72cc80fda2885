"""A picture blended over the whole image (Chen et al. 2017, arXiv 1712.05526)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd import seeds
from raybd.registry import BadInput
from raybd.triggers.base import Trigger
from raybd.triggers.pictures import picture, same_size


@dataclass(frozen=True, kw_only=True)
class Blended(Trigger):
    """A picture blended over the whole image with weight `alpha` (arXiv 1712.05526).

    Without `image` the picture is uniform noise drawn from `seed`.
    """

    kind: ClassVar[str] = "blended"
    citation: ClassVar[str] = "blended"
    alpha: float = 0.2
    image: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise BadInput(f"alpha: expected above 0, at most 1, got {self.alpha}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the picture blended in."""
        pattern = self._pattern(tuple(images.shape[1:])).to(images.device)
        return image_ops.blend(images, pattern, self.alpha)

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the picture has another size than the images."""
        same_size(self._pattern(shape), shape, "trigger.image")

    def _pattern(self, shape: tuple[int, ...]) -> Tensor:
        if self.image is not None:
            return picture(self.image, shape[0])
        noise = torch.randint(0, 256, shape, generator=seeds.generator(self.seed, "blended"))
        return noise.to(torch.uint8)
