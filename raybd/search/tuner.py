"""The Ray executor: Ray Tune runs what a decider asks for, in actors that stay; jobs and calls run there too."""

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray.tune.search import Searcher

from raybd.defenses import DEFENSES
from raybd.registry import BadInput, as_json, build, describe, revive
from raybd.search.records import (
    OBJECTIVES,
    Decider,
    Job,
    Objective,
    OnJob,
    OnProgress,
    OnTrial,
    Outcome,
    discard_weights,
    weights_of,
)
from raybd.search.trial import attempt, run_trial
from raybd.search.view import SearchView
from raybd.training import Epoch

A = TypeVar("A")
B = TypeVar("B")

SEGMENT = 500
"""So many trials run in one Tuner: its driver's memory grows with them, the study's does not."""
SLICE_SECONDS = 5.0
"""A trial reports after so long. Each report is a rendezvous with the driver, so not after each epoch."""
JOB_RETRIES = 2
OUTCOME, EPOCH = "outcome", "epoch"
"""Keys of a report. Their values are JSON text: Tune would flatten a mapping."""

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

        Raises:
            KeyboardInterrupt: on Ctrl-C; the study can be resumed.
        """
        trials = trials.absolute()
        trainable = tune.with_resources(
            tune.with_parameters(
                TrialActor, packed=view.pack(), objectives=dict(objectives), slice_seconds=slice_seconds
            ),
            {"cpu": self.cpus, "gpu": self.gpus},
        )
        storage = trials.parent / "ray"
        try:
            while not decider.finished:
                searcher = RaySearcher(
                    decider, trials=trials, on_trial=on_trial, on_progress=on_progress, segment=segment
                )
                if _fit(trainable, searcher, storage, self.slots):
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

        return tuple(self._map("run_job", [(packed, job) for job in absolute], tell, lost=Outcome.failed))

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """Call a module-level function on every item, on the workers, and return the results in order.

        Raises:
            RuntimeError: if a worker is lost again and again; errors of `function` are raised as they are.
        """
        return self._map("call", [(function, item) for item in items], lambda i, result: None, lost=None)

    def _map(
        self,
        method: str,
        calls: Sequence[tuple[Any, ...]],
        tell: Callable[[int, Any], None],
        lost: Callable[[str], Any] | None,
    ) -> list[Any]:
        """Spread calls over as many actors as there are slots; what a lost actor held is tried again."""
        kind = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(JobActor)
        idle = [kind.remote() for _ in range(min(self.slots, len(calls)))]
        results: dict[int, Any] = {}
        waiting = list(reversed(range(len(calls))))
        attempts = dict.fromkeys(waiting, 0)
        under_way: dict[Any, tuple[int, Any]] = {}
        try:
            while len(results) < len(calls):
                while waiting and idle:
                    i, actor = waiting.pop(), idle.pop()
                    under_way[getattr(actor, method).remote(*calls[i])] = (i, actor)
                (ready, *_), _ = ray.wait(list(under_way), num_returns=1)
                i, actor = under_way.pop(ready)
                try:
                    results[i] = ray.get(ready)
                except ray.exceptions.RayActorError as error:
                    idle.append(kind.remote())
                    attempts[i] += 1
                    if attempts[i] <= JOB_RETRIES:
                        waiting.append(i)
                        continue
                    text = f"its worker was lost {attempts[i]} times ({_first_line(error)})"
                    if lost is None:
                        raise RuntimeError(text) from error
                    results[i] = lost(text)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
                else:
                    idle.append(actor)
                tell(i, results[i])
        finally:
            for actor in (*idle, *(actor for _, actor in under_way.values())):
                ray.kill(actor)
        return [results[i] for i in range(len(calls))]


class JobActor:
    """A worker for jobs and calls; it unpacks a view once."""

    def __init__(self) -> None:
        self._view: SearchView | None = None

    def run_job(self, packed: Mapping[str, Any], job: Job) -> Outcome:
        """Run one job on a copy of the suspect."""
        if self._view is None:
            self._view = SearchView.unpack(packed)
        return run_trial(self._view, job.defense, seed=job.seed, weights=job.weights)

    def call(self, function: Callable[[A], B], item: A) -> B:
        """Call a function on an item."""
        return function(item)


class TrialActor(tune.Trainable):
    """A worker that runs one trial after the other; the suspect and the data stay with it."""

    def setup(  # type: ignore[override]  # with_parameters adds arguments
        self,
        config: dict[str, Any],
        packed: Mapping[str, Any],
        objectives: Mapping[str, Objective],
        slice_seconds: float,
    ) -> None:
        """Unpack the view, once for all trials of this actor, and begin the first."""
        if packed["compute"].device == "cuda" and not ray.get_gpu_ids():
            raise RuntimeError("a trial that computes on a GPU was given none by Ray")
        self._view = SearchView.unpack(packed)
        self._objectives = objectives
        self._slice_seconds = slice_seconds
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process."""
        self._trial.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Give up a trial that was stopped half-way."""
        self._trial.close()

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._trial: Generator[Epoch, None, Outcome] = attempt(
            self._view,
            build(DEFENSES, config["defense"], where="trial"),
            seed=config["seed"],
            weights=Path(config["weights"]),
            objectives=self._objectives,
        )

    def step(self) -> dict[str, Any]:
        """Advance the trial for a few seconds; the last step carries its outcome."""
        start = time.monotonic()
        while True:
            try:
                epoch = next(self._trial)
            except StopIteration as end:
                return {"done": True, "outcome": json.dumps(as_json(end.value))}  # Tune flattens nested results
            if time.monotonic() - start >= self._slice_seconds:
                return {"done": False, "epoch": json.dumps(as_json(epoch))}


class RaySearcher(Searcher):
    """Hands a decider's proposals to Ray Tune and takes the outcomes back; the decider keeps the study."""

    def __init__(
        self,
        decider: Decider,
        *,
        trials: Path,
        on_trial: OnTrial | None,
        on_progress: OnProgress | None,
        segment: int,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._decider = decider
        self._trials = trials
        self._on_trial = on_trial
        self._on_progress = on_progress
        self._left = segment
        self._numbers: dict[str, int] = {}
        self._fault: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's configuration, None to be asked again, or FINISHED."""
        if self._fault is not None or self._left < 1 or self._decider.finished:
            return str(Searcher.FINISHED)
        try:
            proposal = self._decider.ask(ticket=trial_id)
        except Exception as error:  # noqa: BLE001 - raised again by settle, when the trials under way have ended
            self._fault = error
            return self.suggest(trial_id)
        if proposal is None:
            return None
        self._left -= 1
        self._numbers[trial_id] = proposal.number
        return {
            "defense": describe(proposal.defense),
            "seed": proposal.seed,
            "weights": str(weights_of(self._trials, proposal.number)),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass progress on."""
        if self._on_progress is not None and "epoch" in result and trial_id in self._numbers:
            self._on_progress(self._numbers[trial_id], revive(Epoch, json.loads(result["epoch"])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the decider how a trial ended; if Ray lost it, `on_trial_error` comes next and knows why."""
        outcome = (result or {}).get("outcome")
        if outcome is not None and not error:
            self._tell(trial_id, revive(Outcome, json.loads(outcome)))

    def lost(self, trial_id: str, why: str) -> None:
        """Tell the decider that a trial failed outside its own code."""
        self._tell(trial_id, Outcome.failed(f"its worker was lost: {why}"))

    def _tell(self, trial_id: str, outcome: Outcome) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        record = self._decider.tell(number, outcome)
        discard_weights(self._trials, self._decider.records())
        if record is not None and self._on_trial is not None:
            self._on_trial(record)

    def settle(self) -> None:
        """End what Tune left open and raise what went wrong in the decider."""
        for trial_id in list(self._numbers):
            self._tell(trial_id, Outcome.failed("Ray ended the trial without a result"))
        if self._fault is not None:
            raise self._fault

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that raybd never makes

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is in the decider's journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a search is resumed by opening its journal."""


class _Losses(tune.Callback):
    """Passes on why Ray lost a trial, which a Searcher is not told."""

    def __init__(self, searcher: RaySearcher) -> None:
        self._searcher = searcher

    def on_trial_error(self, **info: Any) -> None:  # type: ignore[override]  # all of it comes by name
        """Tell the last line of the trial's error file."""
        trial = info["trial"]
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        lines = [line for line in text.splitlines() if line.strip()]
        self._searcher.lost(trial.trial_id, lines[-1].strip() if lines else "no reason given")


def _fit(trainable: Any, searcher: RaySearcher, storage: Path, slots: int) -> bool:
    """Run one Tuner quietly until the searcher has finished; return whether Ctrl-C ended it before."""
    config = tune.TuneConfig(
        search_alg=searcher, num_samples=-1, max_concurrent_trials=slots, reuse_actors=True,
        trial_name_creator=lambda trial: trial.trial_id, trial_dirname_creator=lambda trial: trial.trial_id,
    )  # fmt: skip
    run_config = tune.RunConfig(
        name=f"segment-{time.time_ns()}",
        storage_path=str(storage),
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=0),  # the decider repeats what failed
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial is too short for one
        callbacks=[_Losses(searcher)],
    )
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        tune.Tuner(trainable, tune_config=config, run_config=run_config).fit()
        # Tune takes Ctrl-C over, gives it back only when it comes, and then returns as if nothing had happened.
        return in_main_thread and signal.getsignal(signal.SIGINT) is handlers[signal.SIGINT]
    finally:
        logger.setLevel(level)
        if in_main_thread:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
