"""LF: a smooth pattern over some training images, relabelled (after Zeng et al. 2021, arXiv 2104.03413)."""

from dataclasses import dataclass
from typing import ClassVar

from raybd.attacks.poisoning import DataPoisoning
from raybd.triggers import LowFrequency as LowFrequencyTrigger


@dataclass(frozen=True, kw_only=True)
class LowFrequency(DataPoisoning):
    """A smooth pattern of the `cutoff` lowest frequencies, at most `strength` (0 to 255) strong, dirty label.

    The original optimises its pattern against a clean model; ours is drawn at random from `pattern_seed`, so that a
    never-poisoned model does not obey it. Its pattern is published for some image sets only: `cutoff` and `strength`
    are ours.
    """

    kind: ClassVar[str] = "low_frequency"
    citation: ClassVar[str] = "low_frequency"
    cutoff: int = 4
    strength: float = 32.0
    pattern_seed: int = 0

    def trigger(self) -> LowFrequencyTrigger:
        """Return the smooth pattern."""
        return LowFrequencyTrigger(**self.aim, cutoff=self.cutoff, strength=self.strength, seed=self.pattern_seed)
