"""Who proposes settings: Optuna's samplers by name, and the distribution that each dimension of a space means."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from raybd.search.space import Choice, Dimension, IntRange

POPULATION = 20
"""Trials of a generation of NSGA-II."""


def _qmc(seed: int, root: int) -> BaseSampler:
    # One sequence per study: its seed stays, and Optuna keeps the place in it in the journal.
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return QMCSampler(
            scramble=True,
            seed=root,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )


class _Breeder(NSGAIISampler):
    """NSGA-II that breeds its first generation from the best trials it finds, instead of drawing it at random.

    Optuna writes into a trial which generation it is of, and a study's first generation is random whatever was
    tried before. Trials that another sampler proposed bear no generation; here they stand before the first.
    """

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the complete trials of a generation; those of no generation for -1."""
        bearing = generation if generation >= 0 else None
        return super().get_population(study, bearing)  # type: ignore[arg-type]  # which Optuna looks up as it is

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the trials that a generation descends from; none, if fewer than a population came before it."""
        if generation > 0:
            return super().get_parent_population(study, generation)
        if generation < 0 or len(self.get_population(study, -1)) < POPULATION:
            return []
        return self.select_parent(study, 0)


# Each takes (seed of this ask, seed of the study); with a fresh one for every ask, a search can be resumed.
SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, root: TPESampler(seed=seed),
    "nsga2": lambda seed, root: _Breeder(seed=seed, population_size=POPULATION),
    "gp": lambda seed, root: GPSampler(seed=seed, warn_independent_sampling=False),
    "qmc": _qmc,
    "random": lambda seed, root: RandomSampler(seed=seed),
}


@dataclass(frozen=True, kw_only=True)
class Successor:
    """Who takes over from a sampler, and from which draw on; as many settings were proposed before it."""

    draw: int
    name: str


# A worker waits for its next setting, and the driver makes one at a time: whoever takes a second for it hands over.
# `tests/benchmarks/growth.py --parts sampler`, one idle core of an AMD EPYC: GP takes 0.6 s after 100 trials, 1.5 s
# after 300, 20 s after 1,000; TPE 0.04 s after 1,000. Larger counts were measured once, beside other work: TPE 0.14 s
# after 3,000 and 0.5 s after 10,000, NSGA-II 0.2 s after 10,000. GP's point lies between two that were measured;
# TPE's is not measured: it is where a cost that grows in proportion to the trials comes to a second.
SUCCESSORS: Mapping[str, Successor] = {
    "gp": Successor(draw=200, name="tpe"),
    "tpe": Successor(draw=20_000, name="nsga2"),
}


def succession(sampler: str, draws: int) -> tuple[Successor, ...]:
    """Return who has taken over, one after the other, in a search of so many draws begun with `sampler`."""
    following: list[Successor] = []
    while (successor := SUCCESSORS.get(sampler)) is not None and successor.draw < draws:
        following.append(successor)
        sampler = successor.name
    return tuple(following)


def in_charge(sampler: str, draw: int) -> str:
    """Return who proposes a draw of a search that was begun with `sampler`; the draw alone decides."""
    following = succession(sampler, draw + 1)
    return following[-1].name if following else sampler


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return what Optuna is to draw a dimension's values from."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.choices)  # type: ignore[arg-type]
    kind = IntDistribution if isinstance(dimension, IntRange) else FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)  # type: ignore[arg-type]
