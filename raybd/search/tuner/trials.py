"""Trials on Ray Tune: the actor that runs them one after the other, and the Searcher that hands them out."""

import json
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from raybd.defenses import DEFENSES
from raybd.files import told_by_disk
from raybd.registry import as_json, build, describe, revive
from raybd.search.records import (
    Decider,
    Objective,
    OnProgress,
    OnTrial,
    Outcome,
    Reading,
    Stopping,
    discard_weights,
    weights_of,
)
from raybd.search.trial import attempt
from raybd.search.tuner.courier import Courier, Desk
from raybd.search.view import SearchView
from raybd.training import Epoch

OUTCOME, EPOCH, READING = "outcome", "epoch", "reading"
"""Keys of a report. Their values are JSON text: Tune would flatten a mapping."""


class TrialActor(tune.Trainable):
    """A worker that runs one trial after the other; the suspect and the data stay with it."""

    def setup(  # type: ignore[override]  # with_parameters adds arguments
        self,
        config: dict[str, Any],
        packed: Mapping[str, Any],
        objectives: Mapping[str, Objective],
        slice_seconds: float,
        stopping: Stopping,
        courier: Courier | None,
    ) -> None:
        """Unpack the view, once for all trials of this actor, and begin the first."""
        if packed["compute"].device == "cuda" and not ray.get_gpu_ids():
            raise RuntimeError("a trial that computes on a GPU was given none by Ray")
        self._view = SearchView.unpack(packed)
        self._objectives = objectives
        self._slice_seconds = slice_seconds
        self._stopping = stopping
        self._desk = Desk(courier)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same process."""
        self._trial.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Give up a trial that was stopped half-way."""
        self._trial.close()
        self._desk.close()

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._target = Path(config["weights"])
        self._trial: Generator[Epoch | Reading, None, Outcome] = attempt(
            self._view,
            build(DEFENSES, config["defense"], where="trial"),
            seed=config["seed"],
            weights=self._desk.draft(self._target),
            objectives=self._objectives,
            stopping=self._stopping,
        )

    def step(self) -> dict[str, Any]:
        """Advance the trial for a few seconds or to a rung; the last step carries its outcome."""
        start = time.monotonic()
        while True:
            try:
                shown = next(self._trial)
            except StopIteration as end:
                self._desk.send(self._target)
                return {"done": True, OUTCOME: json.dumps(as_json(end.value))}
            if isinstance(shown, Reading):
                return {"done": False, READING: json.dumps(as_json(shown))}
            if time.monotonic() - start >= self._slice_seconds:
                return {"done": False, EPOCH: json.dumps(as_json(shown))}


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
        self._front = discard_weights(trials, decider.records())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's configuration, None to be asked again, or FINISHED."""
        if self._fault is not None or self._left < 1 or self._decider.finished:
            return str(Searcher.FINISHED)
        try:
            proposal = self._decider.ask(ticket=trial_id)
        except Exception as error:  # noqa: BLE001 - raised again by settle, when the trials under way have ended
            self._fault = error
            return str(Searcher.FINISHED)
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
        if self._on_progress is not None and EPOCH in result and trial_id in self._numbers:
            self._on_progress(self._numbers[trial_id], revive(Epoch, json.loads(result[EPOCH])))

    def gives_up(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether the decider gives up a trial for what this result says of it."""
        if READING not in result or trial_id not in self._numbers:
            return False
        reading: Reading = revive(Reading, json.loads(result[READING]))
        reason = self._decider.judge(self._numbers[trial_id], reading)
        if reason:
            self._tell(trial_id, Outcome.behind(reading, reason))
        return bool(reason)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the decider how a trial ended; if Ray lost it, `on_trial_error` comes next and knows why."""
        outcome = (result or {}).get(OUTCOME)
        if outcome is not None and not error:
            self._tell(trial_id, revive(Outcome, json.loads(outcome)))

    def lost(self, trial_id: str, why: str) -> None:
        """Tell the decider that a trial failed outside its own code; a full disk ends the search instead."""
        full = told_by_disk(why)
        if full is None:
            self._tell(trial_id, Outcome.failed(f"its worker was lost: {why}"))
        else:
            self._fault = self._fault or full

    def _tell(self, trial_id: str, outcome: Outcome) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        try:
            record = self._decider.tell(number, outcome)
            if record is None:
                return
            self._front = discard_weights(self._trials, (*self._front, record))
            if self._on_trial is not None:
                self._on_trial(record)
        except Exception as error:  # noqa: BLE001 - as in suggest
            self._fault = self._fault or error

    def settle(self) -> None:
        """Raise what went wrong; where nothing did, end what Tune left open, and remove what a lost worker left."""
        if self._fault is not None:
            raise self._fault  # what is left open then was interrupted, which the decider says when it is closed
        for trial_id in list(self._numbers):
            self._tell(trial_id, Outcome.failed("Ray ended the trial without a result"))
        discard_weights(self._trials, self._decider.records())

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that raybd never makes

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is in the decider's journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a search is resumed by opening its journal."""
