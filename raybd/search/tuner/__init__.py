"""The Ray executor: joins or starts Ray, and runs trials, jobs and calls on its workers."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray._private import ray_constants

from raybd.registry import BadInput
from raybd.search.records import OBJECTIVES, Decider, Job, Objective, OnJob, OnProgress, OnTrial, Outcome, Stopping
from raybd.search.trial import NEVER
from raybd.search.tuner.jobs import JobActor, spread
from raybd.search.tuner.trials import RaySearcher, TrialActor, fit
from raybd.search.view import SearchView

__all__ = ["JobActor", "RaySearcher", "TrialActor", "Workers", "connected"]

A = TypeVar("A")
B = TypeVar("B")

SEGMENT = 500
"""So many trials run in one Tuner: its driver's memory grows with them, the study's does not."""
SLICE_SECONDS = 5.0
"""A trial reports after so long. Each report is a rendezvous with the driver, so not after each epoch."""

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning; a trial without a GPU never asks for one
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in every process
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study keeps the records
    "TUNE_DISABLE_SIGINT_HANDLER": "0",  # Ctrl-C ends the trials in order; a second one at once
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",  # else a hung actor holds its GPU for ten minutes
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def connected(
    *, cpus_per_trial: int = 1, gpus_per_trial: float = 0, workers: int | None = None, address: str | None = None
) -> Iterator["Workers"]:
    """Join the Ray cluster at `address` (or of `RAY_ADDRESS`), or the one already joined, or start one here.

    Args:
        cpus_per_trial: CPUs each trial holds.
        gpus_per_trial: GPUs each trial holds; a fraction shares one.
        workers: so many trials at once; as many as fit by default.
        address: of a running cluster.

    Raises:
        BadInput: if not even one trial fits.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    with _environment(_ENVIRONMENT):
        started = not ray.is_initialized()
        if started:
            with contextlib.nullcontext() if address else _on_loopback():
                ray.init(
                    address=address,
                    num_cpus=workers * cpus_per_trial if workers and not address else None,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        try:
            slots = _slots(cpus_per_trial, gpus_per_trial)
            yield Workers(cpus=cpus_per_trial, gpus=gpus_per_trial, slots=min(slots, workers or slots))
        finally:
            if started:
                ray.shutdown()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let the Ray that is started inside listen on loopback; on Linux its own choice is every address, for anybody.

    Ray takes 127.0.0.1 for a slip and puts the machine's address in its place, unless this constant of its own, by
    which it stays on loopback on macOS and Windows, says that there is no cluster.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _slots(cpus: int, gpus: float) -> int:
    """How many trials fit on the cluster at once, counted by node because a trial cannot span two."""
    fits = 0
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            has = node["Resources"]
            by_gpu = int(has.get("GPU", 0) / gpus + 1e-9) if gpus else None
            by_cpu = int(has.get("CPU", 0) // cpus)
            fits += by_cpu if by_gpu is None else min(by_cpu, by_gpu)
    if fits < 1:
        raise BadInput(f"resources: no machine of the cluster has {cpus} CPUs and {gpus:g} GPUs for a trial")
    return fits


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The machines joined: `slots` trials run at once, each with `cpus` CPUs and `gpus` GPUs."""

    cpus: int
    gpus: float
    slots: int

    def run(
        self,
        view: SearchView,
        decider: Decider,
        *,
        trials: Path,
        on_trial: OnTrial | None = None,
        on_progress: OnProgress | None = None,
        objectives: Mapping[str, Objective] = OBJECTIVES,
        segment: int = SEGMENT,
        slice_seconds: float = SLICE_SECONDS,
        stopping: Stopping = NEVER,
    ) -> None:
        """Run what `decider` asks for until its budget is met.

        Args:
            view: what the search may see.
            decider: says what to try and learns how it went.
            trials: folder for the weights of the trials on the front; shared by all machines.
            on_trial: called with the record of each ended trial.
            on_progress: called with a trial's number and latest stretch of training, every few seconds.
            objectives: the figures to compute for each trial.
            segment: trials per Tuner.
            slice_seconds: a trial reports after so long.
            stopping: which trials to give up before their end.

        Raises:
            KeyboardInterrupt: on Ctrl-C; the study can be resumed.
        """
        trials = trials.absolute()
        trainable = tune.with_resources(
            tune.with_parameters(
                TrialActor,
                packed=view.pack(),
                objectives=dict(objectives),
                slice_seconds=slice_seconds,
                stopping=stopping,
            ),
            {"cpu": self.cpus, "gpu": self.gpus},
        )
        storage = trials.parent / "ray"
        try:
            while not decider.finished:
                searcher = RaySearcher(
                    decider, trials=trials, on_trial=on_trial, on_progress=on_progress, segment=segment
                )
                if fit(trainable, searcher, storage, self.slots):
                    raise KeyboardInterrupt
                searcher.settle()
        finally:
            shutil.rmtree(storage, ignore_errors=True)

    def map_jobs(self, view: SearchView, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> tuple[Outcome, ...]:
        """Run `jobs` on the workers and return how they ended, in their order."""
        packed = ray.put(view.pack())
        absolute = [Job(defense=j.defense, seed=j.seed, weights=j.weights and j.weights.absolute()) for j in jobs]

        def tell(i: int, outcome: Any) -> None:
            if on_job is not None:
                on_job(jobs[i], outcome)

        return tuple(self._spread("run_job", [(packed, job) for job in absolute], tell=tell, lost=Outcome.failed))

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Call a module-level function on every item, on the workers, and return the results in order.

        Raises:
            RuntimeError: if a call loses its worker again and again; errors of `function` are raised as they are.
        """
        return self._spread("call", [(function, item) for item in items])

    def _spread(self, method: str, calls: Sequence[tuple[Any, ...]], **how: Any) -> list[Any]:
        return spread(method, calls, actors=self.slots, cpus=self.cpus, gpus=self.gpus, **how)
