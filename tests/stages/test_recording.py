"""Claims about what a search writes to MLflow: off the search's path, all of it, and never in place of a fault."""

import threading
from pathlib import Path

import pytest

from raybd import pipeline
from raybd.search.records import TrialRecord
from raybd.stages.recording import SearchLog
from raybd.stages.run_folder import RunFolder
from raybd.tracking import Tracker
from tests.search.fakes import SPACE, measured
from tests.studies import study


def record(number: int) -> TrialRecord:
    return TrialRecord.of(number, dict(SPACE.first[0]), number, measured(0.5, 0.9), feasible=False)


@pytest.fixture
def log(tmp_path: Path) -> SearchLog:
    settings = study(tmp_path, training={"epochs": 1})
    suspect = pipeline.inject(settings, runs=tmp_path / "runs")
    return SearchLog(settings, suspect, RunFolder.open(settings, tmp_path / "runs", create=False))


def broken(*_: object) -> None:
    raise RuntimeError("cannot write")


def test_leaving_it_waits_for_what_is_being_written(log: SearchLog, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, written = threading.Event(), []

    def slow(_: Tracker, cards: list[dict[str, int]]) -> None:
        gate.wait(20)
        written.extend(card["number"] for card in cards)

    monkeypatch.setattr(Tracker, "trials", slow)
    with log:
        for number in range(3):
            log.trial(record(number))
        assert (written, log.backlog > 0) == ([], True), "nobody waits for a trial to be written"
        gate.set()
    assert written == [0, 1, 2]


def test_a_fault_in_writing_is_raised_when_the_search_is_over(log: SearchLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracker, "trials", broken)
    with pytest.raises(RuntimeError, match="cannot write"), log:
        log.trial(record(0))


def test_it_does_not_hide_what_ended_the_search(log: SearchLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tracker, "trials", broken)

    def interrupted_search() -> None:
        with log:
            log.trial(record(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_search()
