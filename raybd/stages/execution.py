"""Who does the work of a stage: Ray's workers, or this process; both run the same trials."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from raybd.artifacts import Suspect
from raybd.evaluation.metrics import Rate
from raybd.search import local, tuner
from raybd.search.records import Decider, Job, OnJob, OnProgress, OnTrial, Outcome
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

    def map_jobs(self, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> Sequence[Outcome]:
        """Run defenses on copies of the suspect; the outcomes come in order, `on_job` hears of each as it ends."""

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """Call a module-level function on every item; the results come in order."""


class LocalExecutor:
    """Everything in this process, one after the other, without Ray."""

    workers = 1

    def __init__(self, view: SearchView, settings: StudySettings) -> None:
        self._view = view
        self._stopping = settings.search.stopping()
        self.reference = view.reference_accuracy

    def run(self, decider: Decider, *, trials: Path, on_trial: OnTrial, on_progress: OnProgress | None = None) -> None:
        """See `Executor.run`."""
        local.run(
            self._view,
            decider,
            trials=trials,
            on_trial=on_trial,
            on_progress=on_progress,
            stopping=self._stopping,
        )

    def map_jobs(self, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> Sequence[Outcome]:
        """See `Executor.map_jobs`."""
        return local.map_jobs(self._view, jobs, on_job=on_job)

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """See `Executor.map_calls`."""
        return [function(item) for item in items]


class RayExecutor:
    """The study's share of Ray's workers; Ray is joined, or started, for each piece of work unless it is up."""

    def __init__(self, view: SearchView, settings: StudySettings) -> None:
        self._view = view
        self._settings = settings
        self.workers = settings.resources.workers or 0
        self.reference = view.reference_accuracy

    def run(self, decider: Decider, *, trials: Path, on_trial: OnTrial, on_progress: OnProgress | None = None) -> None:
        """See `Executor.run`."""
        with connected(self._settings) as ray_workers:
            self.workers = ray_workers.slots
            ray_workers.run(
                self._view,
                decider,
                trials=trials,
                on_trial=on_trial,
                on_progress=on_progress,
                stopping=self._settings.search.stopping(),
            )

    def map_jobs(self, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> Sequence[Outcome]:
        """See `Executor.map_jobs`."""
        if not jobs:
            return ()
        with connected(self._settings) as ray_workers:
            return ray_workers.map_jobs(self._view, jobs, on_job=on_job)

    def map_calls(self, function: Callable[[A], B], items: Iterable[A]) -> Sequence[B]:
        """See `Executor.map_calls`."""
        with connected(self._settings) as ray_workers:
            return ray_workers.map_calls(function, items)


@contextmanager
def connected(settings: StudySettings) -> Iterator[tuner.Workers]:
    """Join Ray, or start it, for as long as the block lasts; blocks inside it use the same."""
    resources = settings.resources
    with tuner.connected(
        cpus_per_trial=resources.cpus_per_trial,
        gpus_per_trial=resources.gpus_per_trial,
        workers=resources.workers,
        placement=settings.cluster.placement,
        patience=resources.trial_timeout_s,
    ) as ray_workers:
        yield ray_workers


@contextmanager
def session(settings: StudySettings) -> Iterator[None]:
    """Keep one Ray for several stages; starting it takes seconds. Nothing is started for a local study."""
    if settings.resources.executor == "local":
        yield
        return
    with connected(settings):
        yield


def slots(settings: StudySettings) -> int:
    """Return how many trials of the study run at once."""
    if settings.resources.executor == "local":
        return LocalExecutor.workers
    with connected(settings) as ray_workers:
        return ray_workers.slots


def executor(settings: StudySettings, suspect: Suspect) -> Executor:
    """Return the study's executor over what a search may see of the suspect."""
    return executor_over(settings, search_view(suspect))


def executor_over(settings: StudySettings, view: SearchView) -> Executor:
    """Return the study's executor over a view."""
    if settings.resources.executor == "local":
        return LocalExecutor(view, settings)
    return RayExecutor(view, settings)


def both(first: Callable[P, None], second: Callable[P, None] | None) -> Callable[P, None]:
    """Return a callback that tells both."""

    def tell(*args: P.args, **kwargs: P.kwargs) -> None:
        first(*args, **kwargs)
        if second is not None:
            second(*args, **kwargs)

    return tell
