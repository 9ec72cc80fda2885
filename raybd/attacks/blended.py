"""Blended: a faint picture over some training images, relabelled (Chen et al. 2017, arXiv 1712.05526)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from raybd.attacks.poisoning import DataPoisoning
from raybd.triggers import Blended as BlendedTrigger


@dataclass(frozen=True, kw_only=True)
class Blended(DataPoisoning):
    """A picture, by default noise drawn from `pattern_seed`, blended in with weight `alpha`; dirty label."""

    kind: ClassVar[str] = "blended"
    citation: ClassVar[str] = "blended"
    alpha: float = 0.2
    image: Path | None = None
    pattern_seed: int = 0

    def trigger(self) -> BlendedTrigger:
        """Return the blended picture."""
        return BlendedTrigger(**self.aim, alpha=self.alpha, image=self.image, seed=self.pattern_seed)
