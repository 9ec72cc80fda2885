"""BadNets: a patch on some training images, relabelled to the target (Gu et al. 2017, arXiv 1708.06733)."""

from dataclasses import dataclass
from typing import ClassVar

from raybd.attacks.poisoning import DataPoisoning
from raybd.triggers import Patch


@dataclass(frozen=True, kw_only=True)
class BadNets(DataPoisoning):
    """A white square of `size` pixels, by default in the lower right corner, dirty label."""

    kind: ClassVar[str] = "badnets"
    citation: ClassVar[str] = "badnets"
    size: int = 3
    row: int = -1
    column: int = -1
    value: int = 255

    def trigger(self) -> Patch:
        """Return the square."""
        return Patch(**self.aim, size=self.size, row=self.row, column=self.column, value=self.value)
