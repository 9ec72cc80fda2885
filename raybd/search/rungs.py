"""Rungs: which trials go on part of the way through, by asynchronous successive halving with two objectives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raybd import pareto
from raybd.registry import as_json, revive
from raybd.search.records import Reading

SHARES = (0.25, 0.5)
"""Where trials are compared, as shares of their own lengths; each is judged at the end of the cycle that gets there."""
ETA = 2
"""One in so many goes on."""


RUNG = "rung "
"""Begins the name under which a study keeps a trial's reading at a rung."""


class Rungs:
    """What every trial showed at every rung, and who goes on from there."""

    def __init__(self, *, max_attack_success_rate: float, max_accuracy_drop: float) -> None:
        self._limits = {
            "max_attack_success_rate": max_attack_success_rate,
            "max_accuracy_drop": max_accuracy_drop,
        }
        self._readings: dict[int, dict[int, Reading]] = {}

    def judge(self, number: int, reading: Reading) -> str:
        """Take note of what a trial showed at a rung; return why to give it up, or ''."""
        rung = self._readings.setdefault(reading.rung, {})
        others = [other for n, other in rung.items() if n != number]
        rung[number] = reading
        if goes_on(reading, others, **self._limits):
            return ""
        return f"not in the better 1/{ETA} of the {len(rung)} trials that came to {SHARES[reading.rung]:.0%} of theirs"

    def forget(self, number: int) -> None:
        """Leave out a trial that failed: it is repeated, and must not be compared with itself."""
        for rung in self._readings.values():
            rung.pop(number, None)

    @staticmethod
    def attribute(reading: Reading) -> tuple[str, Any]:
        """Return under which name, and as what plain JSON, a study keeps a reading."""
        return f"{RUNG}{reading.rung}", as_json(reading)

    def restore(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Take note of the readings among the attributes of a trial that ended in an earlier process."""
        for name, kept in attributes.items():
            if name.startswith(RUNG):
                reading: Reading = revive(Reading, kept)
                self._readings.setdefault(reading.rung, {})[number] = reading


def goes_on(
    reading: Reading, others: Sequence[Reading], *, max_attack_success_rate: float, max_accuracy_drop: float
) -> bool:
    """Whether a trial is among the best 1 / `ETA` of those that have been at its rung, itself included.

    Trials are sorted by non-dominated rank in (attack success rate, accuracy drop), and within a rank by the larger
    of figure / limit. A figure within its limit counts as the limit: without that the corners of the front, an
    untouched backdoor and a wreck that obeys nobody, would always be kept. The first `ETA` - 1 always go on.

    Args:
        reading: of the trial.
        others: of the trials that were at this rung before.
        max_attack_success_rate: the search's limit, a fraction.
        max_accuracy_drop: the search's limit, a fraction.

    Reference: R. Schmucker and others, "Multi-objective asynchronous successive halving", arXiv 2106.12639.
    """
    everyone = [*others, reading]
    if len(everyone) < ETA:
        return True
    limits = (max_attack_success_rate, max_accuracy_drop)
    figures = [(r.attack_success_rate.rate, r.accuracy_drop.value) for r in everyone]
    clipped = [tuple(max(figure, limit) for figure, limit in zip(pair, limits, strict=True)) for pair in figures]
    scores = [max(figure / limit for figure, limit in zip(pair, limits, strict=True)) for pair in figures]
    keys = list(zip(pareto.ranks(clipped), scores, strict=True))
    before = sum(key < keys[-1] for key in keys)
    return before < math.ceil(len(everyone) / ETA)
