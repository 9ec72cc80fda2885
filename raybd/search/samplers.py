"""Who proposes settings: Optuna's samplers by name, and the distribution that each dimension of a space means."""

import warnings
from collections.abc import Callable, Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler

from raybd.search.space import Choice, Dimension, IntRange


def _qmc(seed: int, root: int) -> BaseSampler:
    # One sequence per study: its seed stays, and Optuna keeps the place in it in the journal.
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return QMCSampler(
            scramble=True,
            seed=root,
            independent_sampler=RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )


# Each takes (seed of this ask, seed of the study); with a fresh one for every ask, a search can be resumed.
SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, root: TPESampler(seed=seed),
    "nsga2": lambda seed, root: NSGAIISampler(seed=seed, population_size=20),
    "gp": lambda seed, root: GPSampler(seed=seed, warn_independent_sampling=False),
    "qmc": _qmc,
    "random": lambda seed, root: RandomSampler(seed=seed),
}


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return what Optuna is to draw a dimension's values from."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.choices)  # type: ignore[arg-type]
    kind = IntDistribution if isinstance(dimension, IntRange) else FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)  # type: ignore[arg-type]
