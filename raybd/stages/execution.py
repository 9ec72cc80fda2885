"""Who does the work of a stage: Ray's workers, or this process; both run the same trials."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from raybd.artifacts import Suspect
from raybd.evaluation.metrics import Rate
from raybd.search import local, tuner
from raybd.search.records import Decider, Job, OnProgress, OnTrial, Outcome
from raybd.search.view import SearchView
from raybd.settings import StudySettings
from raybd.stages.preparation import search_view

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")


class Executor(Protocol):
    """Runs a search's trials and other independent work; `reference` is the reference model's C-Acc on selection."""

    workers: int
    reference: Rate

    def run(self, decider: Decider, *, trials: Path, on_trial: OnTrial, on_progress: OnProgress | None = None) -> None:
        """Run what a decider asks for until it asks for nothing more."""

    def map_jobs(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """Run defenses on copies of the suspect; the outcomes come in order."""

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """Call a module-level function on every item; the results come in order."""


class LocalExecutor:
    """Everything in this process, one after the other, without Ray."""

    workers = 1

    def __init__(self, view: SearchView) -> None:
        self._view = view
        self.reference = view.reference_accuracy

    def run(self, decider: Decider, *, trials: Path, on_trial: OnTrial, on_progress: OnProgress | None = None) -> None:
        """See `Executor.run`."""
        local.run(self._view, decider, trials=trials, on_trial=on_trial, on_progress=on_progress)

    def map_jobs(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """See `Executor.map_jobs`."""
        return local.map_jobs(self._view, jobs)

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """See `Executor.map_calls`."""
        return [function(item) for item in items]


class RayExecutor:
    """The study's share of Ray's workers; Ray is joined, or started here, at the first piece of work."""

    def __init__(self, view: SearchView, settings: StudySettings, workers: int) -> None:
        self._view = view
        self._resources = settings.resources
        self.workers = workers
        self.reference = view.reference_accuracy

    def run(self, decider: Decider, *, trials: Path, on_trial: OnTrial, on_progress: OnProgress | None = None) -> None:
        """See `Executor.run`."""
        with self._connected() as ray_workers:
            ray_workers.run(self._view, decider, trials=trials, on_trial=on_trial, on_progress=on_progress)

    def map_jobs(self, jobs: Sequence[Job]) -> Sequence[Outcome]:
        """See `Executor.map_jobs`."""
        if not jobs:
            return ()
        with self._connected() as ray_workers:
            return ray_workers.map_jobs(self._view, jobs)

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """See `Executor.map_calls`."""
        with self._connected() as ray_workers:
            return ray_workers.map_calls(function, items)

    @contextmanager
    def _connected(self) -> Iterator[tuner.Workers]:
        resources = self._resources
        with tuner.connected(
            cpus_per_trial=resources.cpus_per_trial,
            gpus_per_trial=resources.gpus_per_trial,
            workers=self.workers,
        ) as ray_workers:
            yield ray_workers


def executor(settings: StudySettings, suspect: Suspect) -> Executor:
    """Return the study's executor over what a search may see of the suspect."""
    view = search_view(suspect)
    if settings.resources.executor == "local":
        return LocalExecutor(view)
    return RayExecutor(view, settings, workers_of(settings))


def workers_of(settings: StudySettings) -> int:
    """Return how many trials run at once: what the study says, else as many as this machine's CPUs hold."""
    resources = settings.resources
    return resources.workers or max(1, (os.cpu_count() or 1) // resources.cpus_per_trial)


def both(first: Callable[P, None], second: Callable[P, None] | None) -> Callable[P, None]:
    """Return a callback that tells both."""

    def tell(*args: P.args, **kwargs: P.kwargs) -> None:
        first(*args, **kwargs)
        if second is not None:
            second(*args, **kwargs)

    return tell
