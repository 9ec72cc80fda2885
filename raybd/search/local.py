"""The in-process executor: the same trials, one after the other, without Ray."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from raybd.search.records import (
    OBJECTIVES,
    Decider,
    Job,
    Objective,
    OnJob,
    OnProgress,
    OnTrial,
    Outcome,
    Reading,
    Stopping,
    discard_weights,
    weights_of,
)
from raybd.search.trial import NEVER, attempt, drain, run_trial
from raybd.search.view import SearchView
from raybd.training import Epoch


def run(
    view: SearchView,
    decider: Decider,
    *,
    trials: Path,
    on_trial: OnTrial | None = None,
    on_progress: OnProgress | None = None,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    stopping: Stopping = NEVER,
) -> None:
    """Run what `decider` asks for until it asks for nothing.

    Args:
        view: what the search may see.
        decider: says what to try and learns how it went.
        trials: folder for the weights of the trials on the front.
        on_trial: called with the record of each ended trial.
        on_progress: called with a trial's number after each stretch of its training.
        objectives: the figures to compute for each trial.
        stopping: which trials to give up before their end.
    """
    view = view.on_device()
    front = discard_weights(trials, decider.records())
    while (proposal := decider.ask()) is not None:
        number = proposal.number

        def report(epoch: Epoch, number: int = number) -> None:
            if on_progress is not None:
                on_progress(number, epoch)

        def judge(reading: Reading, number: int = number) -> str:
            return decider.judge(number, reading)

        trial = attempt(
            view,
            proposal.defense,
            seed=proposal.seed,
            weights=weights_of(trials, number),
            objectives=objectives,
            stopping=stopping,
        )
        record = decider.tell(number, drain(trial, report, judge))
        if record is None:
            continue
        front = discard_weights(trials, (*front, record))
        if on_trial is not None:
            on_trial(record)


def map_jobs(view: SearchView, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> tuple[Outcome, ...]:
    """Run `jobs` and return how they ended, in their order."""
    view = view.on_device()
    outcomes = []
    for job in jobs:
        outcomes.append(run_trial(view, job.defense, seed=job.seed, weights=job.weights))
        if on_job is not None:
            on_job(job, outcomes[-1])
    return tuple(outcomes)
