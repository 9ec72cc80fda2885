"""What a setting costs to propose, against how many trials have ended: each sampler, alone and as raybd runs it."""

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from raybd.evaluation.metrics import Difference, Rate
from raybd.search import samplers
from raybd.search.records import Outcome, Proposal
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.space import Space
from tests.benchmarks.growth_fits import growth, own_cost
from tests.benchmarks.growth_sizes import Sizes

SPACE = "demo"
"""Five dimensions; the other shipped spaces have six."""
FILLED_AT_RANDOM = ("gp",)
"""Samplers too slow to fill a study of their own; their asks are measured on random's trials."""
N = 400


def outcome_of(proposal: Proposal) -> Outcome:
    """Return a smooth stand-in for a trial: a high first peak removes the backdoor, and costs accuracy."""
    peak = math.log10(proposal.setting["lr_max1"])
    low = math.log10(proposal.setting["lr_max2"])
    rate = 1 / (1 + math.exp(9 * (peak + 0.7)))
    drop = 0.003 + 0.06 / (1 + math.exp(-6 * (peak + 0.25))) + 0.01 * (low + 2) ** 2
    hits = round(rate * N)
    return Outcome(
        state="complete",
        clean_accuracy=Rate.of(round((0.98 - drop) * N), N),
        attack_success_rate=Rate.of(hits, N),
        robust_accuracy=Rate.of(N - hits, N),
        accuracy_drop=Difference(value=drop, low=drop - 0.01, high=drop + 0.01, n=N),
        objectives={"attack_success_rate": rate, "clean_accuracy": 0.98 - drop},
    )


class Study:
    """A study in a folder of its own, filled trial by trial, with a second worker's trial always under way."""

    def __init__(self, folder: Path, sampler: str, trials: int) -> None:
        self._sampler = sampler
        self.decider = OptunaDecider.open(
            folder,
            name="growth",
            space=Space.load(SPACE, Path()),
            limits=Limits(max_attack_success_rate=0.05, max_accuracy_drop=0.02),
            suspect_digest="",
            trials=trials,
            sampler="random" if sampler in FILLED_AT_RANDOM else sampler,
        )
        self._under_way = self.decider.ask()

    def _step(self) -> float:
        """Ask for a trial and tell how the one before it went; return the seconds of the ask."""
        start = time.perf_counter()
        proposal = self.decider.ask()
        seconds = time.perf_counter() - start
        assert self._under_way is not None
        self.decider.tell(self._under_way.number, outcome_of(self._under_way))
        self._under_way = proposal
        return seconds

    def fill(self, ended: int) -> None:
        """Go on until so many trials have ended."""
        while len(self.decider.records()) < ended:
            self._step()

    def asks(self, number: int) -> list[float]:
        """Return the seconds of so many further asks of the sampler."""
        with mock.patch.object(self.decider, "_sampler", self._sampler):
            return [self._step() for _ in range(number)]


def series(sampler: str, sizes: Sizes) -> list[dict[str, float]]:
    """Return the median and the longest ask after each count of ended trials, until one is too long."""
    rows: list[dict[str, float]] = []
    with TemporaryDirectory() as scratch:
        study = Study(Path(scratch), sampler, max(sizes.asks) + sizes.asked + 2)
        with study.decider:
            for ended in sizes.asks:
                study.fill(ended)
                taken = study.asks(sizes.asked)
                rows.append({"trials": ended, "seconds": statistics.median(taken), "longest": max(taken)})
                if max(taken) > sizes.longest_ask:
                    break
    return rows


def measure(sizes: Sizes) -> dict[str, Any]:
    """Measure every sampler without its successor, and those that have one with it."""
    with mock.patch.dict(samplers.SUCCESSORS, clear=True):
        alone = {name: series(name, sizes) for name in samplers.SAMPLERS}
    found: dict[str, Any] = {name: _fitted(own_cost(rows, alone["random"])) for name, rows in alone.items()}
    for name in samplers.SUCCESSORS:
        found[f"{name}, handed over"] = _fitted(own_cost(series(name, sizes), alone["random"]))
    takeovers = {name: vars(successor) for name, successor in samplers.SUCCESSORS.items()}
    return {"series": found, "takeovers": takeovers}


def _fitted(rows: list[dict[str, float]]) -> Mapping[str, Any]:
    fits = {
        "an ask": growth(rows, "trials", "seconds"),
        "beyond random's": growth(rows, "trials", "own_seconds"),
        "beyond random's, last three": growth(rows[-3:], "trials", "own_seconds"),  # where the trials dominate
    }
    return {"rows": rows, "fits": fits}
