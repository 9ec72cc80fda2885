"""A smooth pattern added to the whole image (after Zeng et al. 2021, arXiv 2104.03413)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd import seeds
from raybd.registry import BadInput
from raybd.triggers.base import Trigger


@dataclass(frozen=True, kw_only=True)
class LowFrequency(Trigger):
    """A smooth pattern added to the whole image: a sum of its lowest cosines, drawn from `seed`.

    The `cutoff` lowest frequencies of each axis (DCT-II, the constant left out) get normal weights, channel by
    channel; the sum is scaled so that no pixel changes by more than `strength` (0 to 255). The original (arXiv
    2104.03413) optimises its pattern against a clean model; ours is drawn at random, so that a never-poisoned model
    does not obey it.
    """

    kind: ClassVar[str] = "low_frequency"
    citation: ClassVar[str] = "low_frequency"
    cutoff: int = 4
    strength: float = 32.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cutoff < 2:
            raise BadInput(f"cutoff: expected at least 2 frequencies (the first is the constant), got {self.cutoff}")
        if not 0 < self.strength <= 255:
            raise BadInput(f"strength: expected above 0, at most 255, got {self.strength}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the pattern added, clipped to 0 to 255."""
        channels, height, width = images.shape[1:]
        return image_ops.add(images, self.pattern((channels, height, width)))

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the images have fewer pixels than the pattern has frequencies."""
        if min(shape[1:]) < self.cutoff:
            raise BadInput(
                f"trigger.cutoff: images of {shape[1]} x {shape[2]} pixels have no {self.cutoff} frequencies per axis"
            )

    def pattern(self, shape: tuple[int, int, int]) -> Float32[Tensor, "c h w"]:
        """Return what is added to images of `shape` (c, h, w), on the scale of 0 to 255."""
        stream = seeds.generator(self.seed, "low_frequency")
        weights = torch.randn(shape[0], self.cutoff, self.cutoff, generator=stream)
        weights[:, 0, 0] = 0  # a change of brightness alone is no pattern
        waves = torch.einsum("cuv,uh,vw->chw", weights, self._cosines(shape[1]), self._cosines(shape[2]))
        return waves * (self.strength / waves.abs().max())

    def _cosines(self, size: int) -> Tensor:
        places = (torch.arange(size) + 0.5) * (math.pi / size)
        return torch.cos(torch.arange(self.cutoff)[:, None] * places)
