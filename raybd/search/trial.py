"""One trial: a setting, sanitized and measured on selection, with no trace of who asked for it."""

import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from raybd.defenses.base import Defense
from raybd.evaluation.metrics import collapsed, paired_drop, read
from raybd.models import Classifier
from raybd.search.records import OBJECTIVES, Objective, Outcome, Proposal, TrialRecord, worker_name
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


def steps(
    view: SearchView,
    defense: Defense,
    *,
    seed: int,
    weights: Path | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
) -> Generator[Epoch, None, Outcome]:
    """Sanitize a copy of the suspect and measure it on selection; yield as the training goes on.

    A collapse ends the training; what is left of the model is measured all the same. Errors are raised; debug
    a trial with `list(steps(view, defense, seed=seed))`.

    Args:
        view: what the search may see.
        defense: what to run.
        seed: of the run: order, augmentation, dropout.
        weights: where to write the sanitized weights; nowhere by default.
        objectives: the figures to compute.
    """
    defender = view.defender()
    reason, trained, seconds = "", (0, 0), 0.0
    training = defense.sanitize(defender, compute=view.compute, seed=seed, subset_seed=view.seed)
    for epoch in training:
        reason, trained, seconds = epoch.collapsed, (epoch.steps, epoch.images), epoch.seconds
        yield epoch
        if reason:
            break
    model = defender.model
    assert isinstance(model, Classifier)
    start = time.perf_counter()
    readings = read(model, view.selection, view.trigger, view.compute)
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
        training_seconds=seconds,
        evaluation_seconds=time.perf_counter() - start,
        steps=trained[0],
        images=trained[1],
        worker=worker_name(),
    )


def attempt(
    view: SearchView,
    defense: Defense,
    *,
    seed: int,
    weights: Path | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
) -> Generator[Epoch, None, Outcome]:
    """Do as `steps` does, but return an error in the trial as an outcome, so that a search outlives it."""
    try:
        return (yield from steps(view, defense, seed=seed, weights=weights, objectives=objectives))
    except Exception as error:  # noqa: BLE001 - whatever a defense raises is this trial's, not the search's
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


def drain(trial: Generator[Epoch, None, Outcome], on_epoch: Callable[[Epoch], None] | None = None) -> Outcome:
    """Run a trial to its end, handing each epoch to `on_epoch`."""
    while True:
        try:
            epoch = next(trial)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        if on_epoch is not None:
            on_epoch(epoch)
