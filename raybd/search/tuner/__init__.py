"""The Ray executor: joins or starts Ray, and runs trials, jobs and calls on its workers."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray._private import ray_constants

from raybd.registry import BadInput, Outage
from raybd.search.records import OBJECTIVES, Decider, Job, Objective, OnJob, OnProgress, OnTrial, Outcome, Stopping
from raybd.search.trial import NEVER
from raybd.search.tuner.courier import Courier
from raybd.search.tuner.jobs import JobActor, spread
from raybd.search.tuner.machines import MACHINE_SECONDS, machines, requested, room
from raybd.search.tuner.placement import Placement, actor_options, trial_resources
from raybd.search.tuner.trials import RaySearcher, TrialActor
from raybd.search.tuner.tuners import SEGMENT, segment_for, segments
from raybd.search.view import SearchView

__all__ = ["SEGMENT", "JobActor", "RaySearcher", "TrialActor", "Workers", "connected", "segment_for"]

A = TypeVar("A")
B = TypeVar("B")

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
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a Tuner is never restored, so its state need not be saved every few seconds
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextlib.contextmanager
def connected(
    *,
    cpus_per_trial: int = 1,
    gpus_per_trial: float = 0,
    workers: int | None = None,
    address: str | None = None,
    placement: Placement = "spread",
    patience: float | None = None,
) -> Iterator["Workers"]:
    """Join the Ray cluster at `address` (or of `RAY_ADDRESS`), or the one already joined, or start one here.

    Args:
        cpus_per_trial: CPUs each trial holds.
        gpus_per_trial: GPUs each trial holds; a fraction shares one.
        workers: so many trials at once; as many as fit now by default. On a cluster that was joined, machines for so
            many are asked of its autoscaler, and used as they come.
        address: of a running cluster.
        placement: where trials go among its machines.
        patience: seconds for which a worker may show nothing before it is taken as hung; for ever by default.

    Raises:
        BadInput: if not even one trial fits.
        Outage: if on a cluster that was joined for `workers` not even one fits within `MACHINE_SECONDS`.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    with _environment(_ENVIRONMENT):
        started = not ray.is_initialized()
        if started:
            with _own_sigterm(), contextlib.nullcontext() if address else _on_loopback():
                # Without "local" Ray would join whatever cluster was last started on this machine.
                ray.init(
                    address=address or "local",
                    num_cpus=workers * cpus_per_trial if workers and not address else None,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        try:
            joined = bool(address) or len(machines()) > 1
            with requested(workers if address and started else None, cpus_per_trial, gpus_per_trial):
                promised = workers is not None and bool(address)
                slots = _slots(cpus_per_trial, gpus_per_trial, promised=promised, begun=joined and not started)
                yield Workers(
                    cpus=cpus_per_trial,
                    gpus=gpus_per_trial,
                    slots=workers if workers and address else min(slots, workers or slots),
                    placement=placement,
                    joined=joined,
                    elastic=joined and workers is None,
                    patience=patience,
                )
        finally:
            if started:
                ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Give the process's own way with SIGTERM back to it, in whose place joining Ray puts a bare exit."""
    own = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(own) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)


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


def _slots(cpus: int, gpus: float, *, promised: bool, begun: bool) -> int:
    """How many trials fit. A run that has `begun` saw that one does: what waits for machines lost since is the pool."""
    slots = room(cpus, gpus)
    if slots < 1 and not begun:
        none = f"no machine of the cluster has {cpus} CPUs and {gpus:g} GPUs for a trial"
        if promised:
            raise Outage(f"resources: {none}, and none came in {MACHINE_SECONDS / 60:g} minutes")
        raise BadInput(
            f"resources: {none}; where an autoscaler is to bring one, say with resources.workers how many trials "
            "at once it is to bring machines for"
        )
    return max(1, slots)


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
    """The machines joined: `slots` trials run at once, each with `cpus` CPUs and `gpus` GPUs.

    `placement` says which machines they take first where not all are needed. On a cluster that was `joined` weights may
    be made on another machine than the driver's, and are sent to it; where it is `elastic`, as no number was asked for,
    `slots` is what fitted at first. Whose trial or job shows nothing for `patience` seconds is taken as hung.
    """

    cpus: int
    gpus: float
    slots: int
    placement: Placement = "spread"
    joined: bool = False
    elastic: bool = False
    patience: float | None = None

    def now(self) -> int:
        """Return how many trials run at once from now on: machines may have joined an elastic cluster, or left it."""
        return max(1, room(self.cpus, self.gpus)) if self.elastic else self.slots

    def run(
        self,
        view: SearchView,
        decider: Decider,
        *,
        trials: Path,
        on_trial: OnTrial | None = None,
        on_progress: OnProgress | None = None,
        objectives: Mapping[str, Objective] = OBJECTIVES,
        segment: int | None = None,
        slice_seconds: float = SLICE_SECONDS,
        stopping: Stopping = NEVER,
    ) -> None:
        """Run what `decider` asks for until its budget is met.

        Args:
            view: what the search may see.
            decider: says what to try and learns how it went.
            trials: folder for the weights of the trials on the front, on this machine.
            on_trial: called with the record of each ended trial.
            on_progress: called with a trial's number and latest stretch of training, every few seconds.
            objectives: the figures to compute for each trial.
            segment: trials per Tuner; what `segment_for` says by default.
            slice_seconds: a trial reports after so long.
            stopping: which trials to give up before their end.

        Raises:
            Outage: if no machine could hold a worker for `MACHINE_SECONDS`, and none was asked of an autoscaler; the
                study can be resumed.
            KeyboardInterrupt: on Ctrl-C; the study can be resumed.
        """
        trials = trials.absolute()
        courier = Courier.from_here(trials) if self.joined else None
        trainable = tune.with_resources(
            tune.with_parameters(
                TrialActor,
                packed=view.pack(),
                objectives=dict(objectives),
                slice_seconds=slice_seconds,
                stopping=stopping,
                courier=courier,
            ),
            trial_resources(self.cpus, self.gpus, self.placement),
        )
        try:
            segments(
                trainable,
                decider,
                trials=trials,
                slots=self.now,
                segment=segment,
                patience=self.patience,
                room=self._room,
                on_trial=on_trial,
                on_progress=on_progress,
            )
        finally:
            if courier is not None:
                courier.close()

    def map_jobs(self, view: SearchView, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> tuple[Outcome, ...]:
        """Run `jobs` on the workers and return how they ended, in their order.

        Raises:
            Outage: if no machine could hold a worker for `MACHINE_SECONDS`, and none was asked of an autoscaler.
            RuntimeError: if no worker can be started.
        """
        packed = ray.put(view.pack())
        absolute = [Job(defense=j.defense, seed=j.seed, weights=j.weights and j.weights.absolute()) for j in jobs]

        def tell(i: int, outcome: Any) -> None:
            if on_job is not None:
                on_job(jobs[i], outcome)

        folders = [job.weights.parent for job in absolute if job.weights is not None]
        courier = Courier.from_here(Path(os.path.commonpath(folders))) if self.joined and folders else None
        calls = [(packed, job) for job in absolute]
        try:
            how = {"courier": courier, "patience": self.patience, "tell": tell, "lost": Outcome.failed}
            return tuple(self._spread("run_job", calls, **how))
        finally:
            if courier is not None:
                courier.close()

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Call a module-level function on every item, on the workers, and return the results in order.

        Raises:
            Outage: if no machine could hold a worker for `MACHINE_SECONDS`, and none was asked of an autoscaler.
            RuntimeError: if no worker can be started, or a call loses its worker again and again; errors of `function`
                are raised as they are.
        """
        return self._spread("call", [(function, item) for item in items])

    def _spread(self, method: str, calls: Sequence[tuple[Any, ...]], **how: Any) -> list[Any]:
        where = actor_options(self.cpus, self.gpus, self.placement)
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, **where}
        return spread(method, calls, actors=self.now(), options=options, room=self._room, **how)

    @property
    def _room(self) -> Callable[[], int] | None:
        """How many workers the machines hold; None where they were asked of an autoscaler, which may take long."""
        return None if self.joined and not self.elastic else partial(room, self.cpus, self.gpus)
