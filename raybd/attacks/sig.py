"""SIG: a sinusoidal signal on some images of the target class, which keep their label (arXiv 1902.11237)."""

from dataclasses import dataclass
from typing import ClassVar

from raybd.attacks.poisoning import DataPoisoning
from raybd.triggers import Goal, Sinusoid


@dataclass(frozen=True, kw_only=True)
class Sig(DataPoisoning):
    """Vertical stripes, `frequency` waves of height `delta` (0 to 255), on images of the target class; clean label.

    `poison_ratio` counts against the whole training set: of ten balanced classes 0.1 is every image of one. The
    default leaves a fifth of the target class as it is, so that the class can also be learnt without the stripes.
    """

    kind: ClassVar[str] = "sig"
    citation: ClassVar[str] = "sig"
    goals: ClassVar[tuple[Goal, ...]] = ("all_to_one",)
    clean_label: ClassVar[bool] = True
    poison_ratio: float = 0.08
    delta: float = 40.0
    frequency: int = 6

    def trigger(self) -> Sinusoid:
        """Return the stripes."""
        return Sinusoid(**self.aim, delta=self.delta, frequency=self.frequency)
