"""One Tuner after the other over one study, and what becomes of the workers that are lost or hang in them."""

import gc
import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raybd.search.halving import Halving
from raybd.search.records import Decider, OnProgress, OnTrial
from raybd.search.tuner.pool import LOOK_S, Wait
from raybd.search.tuner.trials import RaySearcher

SEGMENT = 500
"""At least so many trials run in one Tuner. Its driver's memory grows with them, by some 50 KB each until it ends."""
SEGMENT_PER_WORKER = 40
"""And at least so many for each worker: all of them start anew with every Tuner, a few at a time on one machine."""
STEP_SECONDS = 1.0
"""Tune's driver waits a tenth of a second for news; of a step that took longer no more than this counts as silence."""


def segment_for(slots: int) -> int:
    """Return how many trials one Tuner is to run on so many workers."""
    return max(SEGMENT, SEGMENT_PER_WORKER * slots)


class Losses(tune.Callback):
    """Passes on why Ray lost a trial, which a Searcher is not told; ends the workers that hang, and a wait for any.

    Where no trial runs, Tune waits for a worker for ever, and what it says of that is among what `fit` keeps quiet.

    The seconds of a trial's silence are those in which the driver listened: while it was held up itself, by a database
    that was away for instance, it heard of none of them, and reads one report a step afterwards.
    """

    def __init__(
        self, searcher: RaySearcher, patience: float | None = None, room: Callable[[], int] | None = None
    ) -> None:
        self._searcher = searcher
        self._patience = patience
        self._room = room
        self._wait = Wait(room)
        self._looked = time.monotonic()
        self._last: dict[Any, float] = {}
        self._hung: set[str] = set()
        self._listened = 0.0
        self._step_ended = time.monotonic()

    def on_trial_start(self, **info: Any) -> None:  # type: ignore[override]  # all of it comes by name
        """Note that a trial has begun."""
        self._last[info["trial"]] = self._listened

    def on_trial_result(self, **info: Any) -> None:  # type: ignore[override]
        """Note a sign of life."""
        self._last[info["trial"]] = self._listened

    def on_trial_complete(self, **info: Any) -> None:  # type: ignore[override]
        """Forget a trial."""
        self._last.pop(info["trial"], None)

    def on_step_end(self, **_info: Any) -> None:  # type: ignore[override]
        """Kill the workers of trials that have shown nothing for too long; that they are lost, Tune finds itself.

        Raises:
            Outage: if no trial runs, and no machine could hold a worker for `MACHINE_SECONDS`.
        """
        now = time.monotonic()
        self._listened += min(now - self._step_ended, STEP_SECONDS)
        self._step_ended = now
        self._look(now)
        if self._patience is None:
            return
        for trial in [trial for trial, last in self._last.items() if self._listened - last > self._patience]:
            del self._last[trial]
            if trial.temporary_state.ray_actor is not None:
                self._hung.add(trial.trial_id)
                ray.kill(trial.temporary_state.ray_actor)

    def _look(self, now: float) -> None:
        if self._last:
            self._wait, self._looked = Wait(self._room), now
        elif now - self._looked >= LOOK_S:
            self._looked = now
            self._wait.go_on()

    def on_trial_error(self, **info: Any) -> None:  # type: ignore[override]
        """Tell the last line of the trial's error file."""
        trial = info["trial"]
        self._last.pop(trial, None)
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        lines = [line for line in text.splitlines() if line.strip()]
        why = lines[-1].strip() if lines else "no reason given"
        if trial.trial_id in self._hung:
            why = f"it showed nothing for {self._patience:g} s and was taken as hung"
        self._searcher.lost(trial.trial_id, why)


def segments(
    trainable: Any,
    decider: Decider,
    *,
    trials: Path,
    slots: Callable[[], int],
    segment: int | None = None,
    patience: float | None = None,
    room: Callable[[], int] | None = None,
    on_trial: OnTrial | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Run what `decider` asks for on `trainable`, one Tuner after the other, until its budget is met.

    Args:
        trainable: a class that runs one trial after the other and reports as `TrialActor` does, with its resources.
        decider: says what to try and learns how it went.
        trials: folder for the weights of the trials on the front; Ray's own files lie beside it until the end.
        slots: says before each Tuner how many trials are to run at once in it; a cluster may have grown.
        segment: trials per Tuner; what `segment_for` says by default.
        patience: seconds for which a trial may show nothing before its worker is taken as hung; for ever by default.
        room: says how many trials the machines hold that are alive; without it one waits for machines for ever.
        on_trial: called with the record of each ended trial.
        on_progress: called with a trial's number and latest stretch of training.

    Raises:
        Outage: if no trial runs, and there is no `room` for one for `MACHINE_SECONDS`; the study can be resumed.
        KeyboardInterrupt: on Ctrl-C; the study can be resumed.
    """
    storage = trials.parent / "ray"
    try:
        while not decider.finished:
            now = slots()
            searcher = RaySearcher(
                decider,
                trials=trials,
                on_trial=on_trial,
                on_progress=on_progress,
                segment=segment or segment_for(now),
            )
            if fit(trainable, searcher, storage, now, Losses(searcher, patience, room)):
                raise KeyboardInterrupt
            searcher.settle()
            gc.collect()  # a Tuner is full of cycles: its trials would stay for many segments before Python looks
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def fit(trainable: Any, searcher: RaySearcher, storage: Path, slots: int, losses: Losses) -> bool:
    """Run one Tuner quietly until the searcher has finished; return whether Ctrl-C ended it before."""
    config = tune.TuneConfig(
        search_alg=searcher, scheduler=Halving(searcher), num_samples=-1,
        max_concurrent_trials=slots, reuse_actors=True,
        trial_name_creator=lambda trial: trial.trial_id, trial_dirname_creator=lambda trial: trial.trial_id,
    )  # fmt: skip
    run_config = tune.RunConfig(
        name=f"segment-{uuid.uuid4().hex}",
        storage_path=str(storage),
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=0),  # the decider repeats what failed
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial is too short for one
        callbacks=[losses],
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
