"""One trial: a setting, sanitized and measured on selection, with no trace of who asked for it."""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybd.defenses.base import Defense
from raybd.evaluation.metrics import collapsed, paired_drop, read
from raybd.files import disk_fault
from raybd.models import Classifier
from raybd.search.hopeless import hopeless
from raybd.search.records import (
    OBJECTIVES,
    Objective,
    Outcome,
    Proposal,
    Reading,
    Stopping,
    TrialRecord,
    worker_name,
)
from raybd.search.rungs import SHARES
from raybd.search.view import SearchView
from raybd.training import Epoch
from raybd.weights import save_weights, state_of

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Outcome",
    "Proposal",
    "SearchView",
    "TrialRecord",
    "attempt",
    "drain",
    "run_trial",
    "steps",
]

NEVER = Stopping()
RUNG_IMAGES = 500
"""So many selection images are read at a rung: enough to compare, and cheap."""


def steps(
    view: SearchView,
    defense: Defense,
    *,
    seed: int,
    weights: Path | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    stopping: Stopping = NEVER,
) -> Generator[Epoch | Reading, None, Outcome]:
    """Sanitize a copy of the suspect and measure it on selection; yield as the training goes on.

    A collapse ends the training; what is left of the model is measured all the same. A trial that is hopeless ends
    there. At a rung a Reading is yielded: whoever decides that the trial is behind closes the generator. Errors are
    raised; debug a trial with `list(steps(view, defense, seed=seed))`.

    Args:
        view: what the search may see.
        defense: what to run.
        seed: of the run: order, augmentation, dropout.
        weights: where to write the sanitized weights; nowhere by default.
        objectives: the figures to compute.
        stopping: whether to give up before the end, and where to show how far the trial is; never by default.
    """
    defender = view.defender()
    model = defender.model
    assert isinstance(model, Classifier)
    looks = _Looks(view, defense, model, stopping)
    last: Epoch | None = None
    for last in defense.sanitize(defender, compute=view.compute, seed=seed, subset_seed=view.seed):
        yield last
        if last.collapsed:
            break
        if (found := looks.at(last)) is not None:
            if isinstance(found, Outcome):
                return found
            yield found
    assert last is not None  # a defense takes at least one step
    return _measured(view, model, last, looks.seconds, weights, objectives)


class _Looks:
    """The looks at a trial under way, each at the end of a stretch; `seconds` is what they took together."""

    def __init__(self, view: SearchView, defense: Defense, model: Classifier, stopping: Stopping) -> None:
        self._view = view
        self._model = model
        images = len(defense.training_images(view.clean_set, view.seed))
        self._verdict_step = defense.verdict_step(images) if stopping.hopeless else None
        self._rungs = list(enumerate(SHARES)) if stopping.halving else []
        self.seconds = 0.0

    def at(self, epoch: Epoch) -> Outcome | Reading | None:
        """Return the outcome of a hopeless trial, the reading of one at a rung, or None where nothing is due."""
        if epoch.steps >= epoch.total:
            return None
        start = time.perf_counter()
        found = self._hopeless(epoch) or self._reading(epoch)
        self.seconds += time.perf_counter() - start
        return None if found is None else replace(found, evaluation_seconds=self.seconds)

    def _hopeless(self, epoch: Epoch) -> Outcome | None:
        if self._verdict_step is None or epoch.steps < self._verdict_step:
            return None
        self._verdict_step = None  # one look: what is left is there to stay
        rate = hopeless(self._model, self._view)
        if rate is None:
            return None
        reason = f"the backdoor stays: ASR {rate.rate:.0%} on {rate.n} images when the large peak was past"
        return Outcome(state="pruned", reason=reason, attack_success_rate=rate, **_cost(epoch))

    def _reading(self, epoch: Epoch) -> Reading | None:
        due = [rung for rung, share in self._rungs if epoch.steps >= share * epoch.total]
        if not due:
            return None
        self._rungs = self._rungs[len(due) :]
        part = self._view.part(RUNG_IMAGES)
        readings = read(self._model, part.selection, part.trigger, part.compute)
        return Reading(
            rung=due[-1],
            clean_accuracy=readings.clean_accuracy,
            attack_success_rate=readings.attack_success_rate,
            robust_accuracy=readings.robust_accuracy,
            accuracy_drop=paired_drop(part.reference_correct, readings.correct),
            evaluation_seconds=0.0,
            **_cost(epoch),
        )


def _cost(epoch: Epoch) -> dict[str, Any]:
    return {
        "training_seconds": epoch.seconds,
        "steps": epoch.steps,
        "images": epoch.images,
        "worker": worker_name(),
    }


def _measured(
    view: SearchView,
    model: Classifier,
    last: Epoch,
    seconds: float,
    weights: Path | None,
    objectives: Mapping[str, Objective],
) -> Outcome:
    """Measure a trained model; `seconds` of evaluation went before."""
    start = time.perf_counter()
    readings = read(model, view.selection, view.trigger, view.compute)
    reason = last.collapsed
    if not reason and collapsed(readings.clean_accuracy.rate, view.reference_accuracy.rate):
        reason = "clean accuracy fell under half the reference's"
    if weights is not None:
        save_weights(state_of(model), weights)
    return Outcome(
        state="complete",
        collapsed=bool(reason),
        reason=reason,
        clean_accuracy=readings.clean_accuracy,
        attack_success_rate=readings.attack_success_rate,
        robust_accuracy=readings.robust_accuracy,
        accuracy_drop=paired_drop(view.reference_correct, readings.correct),
        objectives={name: float(objective.of(readings)) for name, objective in objectives.items()},
        evaluation_seconds=seconds + time.perf_counter() - start,
        **_cost(last),
    )


def attempt(
    view: SearchView,
    defense: Defense,
    *,
    seed: int,
    weights: Path | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    stopping: Stopping = NEVER,
) -> Generator[Epoch | Reading, None, Outcome]:
    """Do as `steps` does, but return an error in the trial as an outcome, so that a search outlives it.

    Raises:
        OSError: if the disk is full or cannot be written, which no setting is to blame for: the search must end.
    """
    try:
        return (yield from steps(view, defense, seed=seed, weights=weights, objectives=objectives, stopping=stopping))
    except Exception as error:
        fault = disk_fault(error)
        if fault is not None:
            raise fault from error
        return Outcome.failed(error)


def run_trial(
    view: SearchView,
    defense: Defense,
    *,
    seed: int,
    weights: Path | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
) -> Outcome:
    """Run one trial to its end; an error in it is returned as a failed outcome."""
    return drain(attempt(view, defense, seed=seed, weights=weights, objectives=objectives))


def drain(
    trial: Generator[Epoch | Reading, None, Outcome],
    on_epoch: Callable[[Epoch], None] | None = None,
    on_reading: Callable[[Reading], str] | None = None,
) -> Outcome:
    """Run a trial to its end, handing each epoch to `on_epoch`; `on_reading` says why to give it up, or ''."""
    while True:
        try:
            shown = next(trial)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        if isinstance(shown, Reading):
            reason = on_reading(shown) if on_reading is not None else ""
            if reason:
                trial.close()
                return Outcome.behind(shown, reason)
        elif on_epoch is not None:
            on_epoch(shown)
