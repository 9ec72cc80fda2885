"""Trainings written down as they end, so that a stage that was killed goes on from there."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raybd.registry import BadInput, as_json, describe, read_card, revive, write_json
from raybd.search.records import Job, OnJob, Outcome
from raybd.stages.execution import Executor
from raybd.weights import load_weights, weights_digest

OUTCOME = "outcome.json"

OnDone = Callable[[int, int], None]
"""Told how many of how many trainings are done: before the first, and after each."""


def run_kept(jobs: Sequence[Job], executor: Executor, on_done: OnDone | None = None) -> list[Outcome]:
    """Run the jobs whose outcome does not lie beside their weights yet; return all outcomes, in order.

    A failed one is returned too, but not written down: it is tried again the next time. `on_done` counts those that
    are run.
    """
    kept = [_kept(job) for job in jobs]
    todo = [job for job, outcome in zip(jobs, kept, strict=True) if outcome is None]
    fresh = iter(executor.map_jobs(todo, on_job=_keeping(len(todo), on_done)))
    return [next(fresh) if outcome is None else outcome for outcome in kept]


def _keeping(total: int, on_done: OnDone | None) -> OnJob:
    """What hears of each job as it ends: it writes the outcome down, and counts."""
    ended = itertools.count(1)
    if on_done is not None and total:
        on_done(0, total)

    def keep(job: Job, outcome: Outcome) -> None:
        _keep(job, outcome)
        if on_done is not None:
            on_done(next(ended), total)

    return keep


def _file(job: Job) -> Path:
    assert job.weights is not None
    return job.weights.parent / OUTCOME


def _identity(job: Job) -> dict[str, Any]:
    plain: dict[str, Any] = as_json({"defense": describe(job.defense), "seed": job.seed})
    return plain


def _keep(job: Job, outcome: Outcome) -> None:
    if outcome.state != "failed":
        write_json(_file(job), {**_identity(job), "outcome": as_json(outcome), "weights_digest": _digest(job)})


def _kept(job: Job) -> Outcome | None:
    """The outcome of this very job, if it was written down and its weights are there; BadInput if they are damaged."""
    if job.weights is None or not job.weights.is_file() or not _file(job).is_file():
        return None
    card = read_card(_file(job), *_identity(job), outcome=Outcome, weights_digest=str)
    if {key: card[key] for key in _identity(job)} != _identity(job):
        return None
    kept: Outcome = revive(Outcome, card["outcome"])
    if card["weights_digest"] != _digest(job):
        raise BadInput(f"{job.weights}: its digest is not that of {OUTCOME} beside it; the file was changed")
    return kept


def _digest(job: Job) -> str:
    assert job.weights is not None
    return weights_digest(load_weights(job.weights))
