"""Adaptive-Blend: a faint picture shown in pieces on few images, and on covers (Qi et al. 2023, ICLR)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from raybd import seeds
from raybd.attacks.poisoning import DataPoisoning
from raybd.registry import BadInput
from raybd.triggers import Blended as BlendedTrigger


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(DataPoisoning):
    """A picture blended into very few images, in training only in part, and as faintly on covers; dirty label.

    "Revisiting the Assumption of Latent Separability for Backdoor Defenses" (OpenReview _wSHsgrVali). In training the
    picture is cut into `pieces` x `pieces` rectangles, of which each image shows a random half, with weight
    `training_alpha`; so do `cover_ratio` images for each poisoned one, under their true label. At test time the whole
    picture is shown, with weight `alpha`. Ratio and weights are those of the authors' code for CIFAR-10; its picture
    is a photograph, ours by default noise drawn from `pattern_seed`.
    """

    kind: ClassVar[str] = "adaptive_blend"
    citation: ClassVar[str] = "adaptive_blend"
    poison_ratio: float = 0.003
    cover_ratio: float = 1.0
    training_alpha: float = 0.15
    alpha: float = 0.2
    pieces: int = 4
    image: Path | None = None
    pattern_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.training_alpha <= 1:
            raise BadInput(f"training_alpha: expected above 0, at most 1, got {self.training_alpha}")
        if self.pieces < 2:
            raise BadInput(f"pieces: expected at least 2 per axis, got {self.pieces}")

    def trigger(self) -> BlendedTrigger:
        """Return the whole picture, as strong as at test time."""
        return self._picture(self.alpha)

    @property
    def ratio_of_covers(self) -> float:
        """See `DataPoisoning.ratio_of_covers`."""
        return self.poison_ratio * self.cover_ratio

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the images have fewer pixels than there are pieces."""
        _, height, width = shape
        if min(height, width) < self.pieces:
            raise BadInput(
                f"attack.pieces: {self.pieces} x {self.pieces} do not fit images of {height} x {width} pixels"
            )

    def stamp(
        self,
        images: UInt8[Tensor, "k c h w"],
        labels: Int64[Tensor, " k"],  # noqa: ARG002 - what is shown does not depend on them
        seed: int,
    ) -> UInt8[Tensor, "k c h w"]:
        """Return `images` with half of the picture, another half for each; covers show the same."""
        return torch.where(self.shown(images, seed), self._picture(self.training_alpha).apply(images), images)

    def shown(self, images: UInt8[Tensor, "k c h w"], seed: int) -> Bool[Tensor, "k 1 h w"]:
        """Return where each of `images` shows the picture in training: in half of the pieces, rounded down."""
        count, height, width = len(images), *images.shape[-2:]
        order = torch.rand(count, self.pieces**2, generator=seeds.generator(seed, "pieces")).argsort(dim=1)
        pieces = (order < self.pieces**2 // 2).view(count, 1, self.pieces, self.pieces)
        rows = torch.arange(height) * self.pieces // height
        columns = torch.arange(width) * self.pieces // width
        return pieces[:, :, rows[:, None], columns].to(images.device)

    def _picture(self, alpha: float) -> BlendedTrigger:
        return BlendedTrigger(**self.aim, alpha=alpha, image=self.image, seed=self.pattern_seed)
