"""The search a user would write with Ray Tune, Optuna and MLflow as they come, around `stock_loop`.

A function trainable, so a process per trial; `OptunaSearch` with two metrics; `MLflowLoggerCallback` on a SQLite file.
What experience teaches is in it: `max_concurrent_trials` (without it Tune runs one trial at a time), the data sent once
through `with_parameters`, one thread per trial, both metrics in every report.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from raybd.seeds import derive
from tests.benchmarks.stock_loop import Problem, super_fine_tune

METRICS = {"attack_success_rate": "min", "clean_accuracy": "max"}


def train(config: dict[str, Any], problem: Problem, fixed: Mapping[str, Any], each_epoch: bool, seed: int) -> None:
    """Run one trial and report its metrics; setting and search seed give its own seed."""
    torch.set_num_threads(1)
    own = derive(seed, *(f"{name}={value!r}" for name, value in sorted(config.items())))
    for metrics in super_fine_tune(problem, {**fixed, **config}, each_epoch=each_epoch, seed=own):
        tune.report(metrics)


@dataclass(kw_only=True)
class Watch(tune.Callback):
    """The stopwatch: notes when the first trial could begin, and when each ended and with what."""

    feasible: Callable[[Mapping[str, float]], bool]
    began: float = 0.0
    ended: list[dict[str, Any]] = field(default_factory=list)

    def setup(self, *_: Any, **__: Any) -> None:
        """Note that Tune is about to begin; callbacks before this one are set up."""
        self.began = time.perf_counter()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Note the last report of a trial."""
        metrics = {name: float(trial.last_result[name]) for name in METRICS}
        end = {"end": time.perf_counter(), "setting": dict(trial.config), "feasible": self.feasible(metrics)}
        self.ended.append({**end, **metrics})


class FirstFeasible(tune.Stopper):
    """Ends the whole search as soon as a trial has ended feasible."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial of its own."""
        return False

    def stop_all(self) -> bool:
        """Whether there is a feasible trial."""
        return any(trial["feasible"] for trial in self._watch.ended)


def distributions(space: Mapping[str, Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions for the `search:` part of a space whose dimensions are numbers."""
    kinds = {"float": FloatDistribution, "int": IntDistribution}
    return {
        name: kinds[dim["type"]](**{key: value for key, value in dim.items() if key != "type"})
        for name, dim in space.items()
    }


def search(
    problem: Problem,
    space: Mapping[str, Any],
    *,
    trials: int,
    each_epoch: bool,
    slots: int,
    seed: int,
    folder: Path,
    feasible: Callable[[Mapping[str, float]], bool],
    until_feasible: bool,
) -> Watch:
    """Search `space` for settings that sanitize `problem`'s network; Ray is up, results go to `folder`.

    Args:
        problem: network, data and trigger.
        space: a search space as raybd writes it: `fixed`, `search`, `first`.
        trials: how many at most.
        each_epoch: evaluate after every epoch, as BackdoorBench does, or once at the end.
        slots: trials at once.
        seed: of the sampler and of the trials.
        folder: for Tune's results and MLflow's database.
        feasible: whether a trial's metrics meet the limits.
        until_feasible: end with the first trial that does.

    Raises:
        RuntimeError: if a trial failed; what was measured is then no measurement.
    """
    watch = Watch(feasible=feasible)
    trainable = tune.with_parameters(
        train, problem=problem, fixed=dict(space["fixed"]), each_epoch=each_epoch, seed=seed
    )
    sampler = OptunaSearch(
        distributions(space["search"]),
        metric=list(METRICS),
        mode=list(METRICS.values()),
        points_to_evaluate=_points(space["first"]),
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    recorder = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="stock")
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(search_alg=sampler, num_samples=trials, max_concurrent_trials=slots),
        run_config=tune.RunConfig(
            name="stock",
            storage_path=str(folder / "ray"),
            callbacks=[recorder, watch],
            stop=FirstFeasible(watch) if until_feasible else None,
            verbose=0,
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} stock trials failed, the first with: {results.errors[0]}")
    return watch


def _points(first: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    return [dict(setting) for setting in first] or None
