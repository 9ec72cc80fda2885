"""Who does the work of a stage: Ray's workers, or this process; both run the same trials."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from raybd.artifacts import Suspect
from raybd.evaluation.metrics import Rate
from raybd.search import local
from raybd.search.records import Decider, Job, OnTrial, Outcome, TrialRecord
from raybd.search.view import SearchView
from raybd.settings import StudySettings
from raybd.stages.assessing import Executor
from raybd.stages.preparation import search_view

A = TypeVar("A")
B = TypeVar("B")


class LocalExecutor:
    """Everything in this process, one after the other."""

    workers = 1

    def __init__(self, view: SearchView) -> None:
        self._view = view

    @property
    def reference(self) -> Rate:
        """C-Acc of the reference model on selection."""
        return self._view.reference_accuracy

    def run(self, decider: Decider, *, trials: Path, on_trial: OnTrial) -> None:
        """Run a search's trials."""
        local.run(self._view, decider, trials=trials, on_trial=on_trial)

    def map_jobs(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Run defenses on copies of the suspect."""
        return local.map_jobs(self._view, jobs)

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """Call a function on every item."""
        return [function(item) for item in items]


def both(first: OnTrial, second: OnTrial | None) -> OnTrial:
    """Return a callback that tells both."""

    def tell(record: TrialRecord) -> None:
        first(record)
        if second is not None:
            second(record)

    return tell


def workers_of(settings: StudySettings) -> int:
    """Return how many trials run at once: what the study says, else as many as this machine's CPUs hold."""
    resources = settings.resources
    return resources.workers or max(1, (os.cpu_count() or 1) // resources.cpus_per_trial)


@contextmanager
def executor(settings: StudySettings, suspect: Suspect) -> Iterator[LocalExecutor]:
    """Open the study's executor over what a search may see of the suspect."""
    view = search_view(suspect)
    yield LocalExecutor(view)
