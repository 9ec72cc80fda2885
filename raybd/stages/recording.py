"""What each stage tells MLflow; whether a server listens or not, the stage goes on."""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import yaml

from raybd.artifacts import WEIGHTS, Assessment, Study, Suspect
from raybd.registry import as_json, read_json, revive
from raybd.search.records import TrialRecord, weights_of
from raybd.settings import StudySettings
from raybd.stages.cards import load_study
from raybd.stages.preparation import example_images
from raybd.stages.run_folder import RunFolder, environment
from raybd.tracking import Tracker, Untraceable
from raybd.weights import load_into, load_weights

TOGETHER = 32
"""Trials that the writer takes at a time."""


class SearchLog:
    """One parent run for the search, a child run for each trial, a model for each trial of the front.

    Trials are written by a thread of their own, which takes all that have ended meanwhile: a worker that has ended one
    waits for the next setting, not for MLflow. Leaving the `with` block waits until all are written, or in the outbox.
    """

    def __init__(self, settings: StudySettings, suspect: Suspect, folder: RunFolder) -> None:
        self._settings = settings
        self._suspect = suspect
        self._tracker = Tracker(settings.tracking.uri, folder.path, settings.name, base=settings.folder)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._under_way: list[Future[None]] = []
        self._unwritten: deque[TrialRecord] = deque()

    @property
    def backlog(self) -> int:
        """How many trials have ended and are not yet written."""
        return len(self._unwritten)

    @property
    def waiting(self) -> int:
        """How many records lie in the outbox."""
        return self._tracker.waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._writer.shutdown()
        if kind is None:  # else what ended the search is told, not what came of writing it down
            self._settle()

    def begin(self, _trials: int, records: Iterable[TrialRecord]) -> None:
        """Open the parent run, and write earlier sessions' trials again: what a kill lost arrives, the rest stands."""
        settings, suspect = self._settings, self._suspect
        self._tracker.start(
            params={"search": settings.search.model_dump(), "gate": as_json(settings.gate), "space": settings.space},
            tags={
                "stage": "search",
                "trigger_knowledge": suspect.knowledge,
                "suspect_digest": suspect.digest,
                "how": suspect.how,
            },
            artifacts={
                "study.yaml": yaml.safe_dump(settings.resolved(), sort_keys=False),
                "environment.yaml": yaml.safe_dump(environment(), sort_keys=False),
            },
        )
        for record in records:
            self.trial(record)

    def trial(self, record: TrialRecord) -> None:
        """Have one child run written, together with others that wait."""
        # A search of thousands must not keep them all; what went wrong is kept, and raised when the search is over.
        self._under_way = [w for w in self._under_way if not w.done() or w.exception() is not None]
        self._unwritten.append(record)
        self._under_way.append(self._writer.submit(self._write))

    def _write(self) -> None:
        """Write what waits, as much as is soon done; whatever else waits has a call of its own to come."""
        together = [self._unwritten.popleft() for _ in range(min(TOGETHER, len(self._unwritten)))]
        if together:
            self._tracker.trials([as_json(record) for record in together])

    def _settle(self) -> None:
        """Wait for what is being written; raise what went wrong there, which no outage of MLflow does."""
        for written in self._under_way:
            written.result()
        self._under_way.clear()

    def front(self, study: Study, folder: Path) -> None:
        """Log the model of every trial on the front; none, if the suspect's card warns that none can be exported."""
        self._settle()
        records = {record["number"]: record for record in study.records}
        model = self._suspect.model()
        example = example_images(self._suspect.bench)
        for number in study.front:
            weights = weights_of(folder / "trials", number)
            load_into(model, load_weights(weights))
            try:
                self._tracker.model(number, model=model, weights=weights, card=records[number], example=example)
            except Untraceable:
                return


def assessment(settings: StudySettings, measured: Assessment, folder: RunFolder) -> None:
    """Write the table's rows and the sequela."""
    tracker = Tracker(settings.tracking.uri, folder.path, settings.name, base=settings.folder)
    rows = {"suspect": measured.suspect, **measured.references, "candidate": measured.selected}
    for name, row in rows.items():
        tracker.reference(name, as_json(row))
    tracker.sequela(as_json(measured.sequela))


def finish(settings: StudySettings, suspect: Suspect, folder: RunFolder, page: Path) -> None:
    """Close the parent run with the summary's figures, its files and the words that were done.

    Trials and models are said again: MLflow keeps one of each, and what a kill between stages lost arrives.
    """
    if folder.has("search"):
        study = load_study(folder.stage("search"))
        with SearchLog(settings, suspect, folder) as log:
            for record in study.records:
                log.trial(revive(TrialRecord, record))
            log.front(study, folder.stage("search"))
    summary = read_json(folder.path / "summary.json")
    tracker = Tracker(settings.tracking.uri, folder.path, settings.name, base=settings.folder)
    files: dict[str, str | Path] = {"report.html": page, "summary.json": folder.path / "summary.json"}
    if folder.has("select"):
        files["candidate.safetensors"] = folder.stage("select") / WEIGHTS
    chosen: dict[str, Any] = summary.get("selected") or {}
    rates = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    figures: dict[str, Any] = {name: chosen[name] for name in rates if name in chosen}
    tracker.finish(metrics=figures, tags={"stages": ",".join(_done(folder))}, artifacts=files)


def _done(folder: RunFolder) -> Sequence[str]:
    return [word for word in ("inject", "adopt", "search", "select", "assess", "promote") if folder.has(word)]
