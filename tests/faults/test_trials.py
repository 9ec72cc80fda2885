"""One trial goes wrong in a running search: its worker is killed, hangs, runs out of memory, or its loss is NaN."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd import pipeline
from raybd.search import tuner
from raybd.search.records import TrialRecord
from raybd.settings import StudySettings
from tests.faults.checks import figures, front, settled
from tests.faults.homes import Home

pytestmark = pytest.mark.timeout(1200)

PATIENCE = 10.0


@pytest.fixture(scope="module")
def worker() -> Iterator[None]:
    """One Ray for the tests of this file, which the searches join."""
    with tuner.connected(workers=1):
        yield


def on_ray(home: Home) -> StudySettings:
    return home.settings(search={"trials": 4}, resources={"executor": "ray", "workers": 1, "trial_timeout_s": PATIENCE})


def disturbed(home: Home, settings: StudySettings, word: str) -> None:
    """Search; the fault comes in the middle, once the second trial has ended."""

    def after_two(record: TrialRecord) -> None:
        if record.number == 1:
            home.order(word)

    pipeline.search(settings, runs=home.runs, on_trial=after_two)
    assert home.befell, "the fault was never met"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("kill", "its worker was lost"),
        ("hang", f"showed nothing for {PATIENCE:g} s"),
        ("memory", "memory"),
    ],
)
def test_a_worker_that_is_lost_costs_one_repeat_and_no_figure(
    worker: None, home: Home, searched: Home, word: str, said: str
) -> None:
    disturbed(home, on_ray(home), word)
    settled(home.run)
    assert figures(home.run) == figures(searched.run)
    assert front(home.run) == front(searched.run)
    (lost,) = [record for record in home.card("search")["records"] if record["state"] == "failed"]
    assert said in lost["error"]


@pytest.mark.cluster
@pytest.mark.parametrize("word", ["kill", "hang"])
def test_a_confirmation_whose_worker_is_lost_is_repeated(
    worker: None, searched: Home, tmp_path: Path, word: str
) -> None:
    home = Home(Path(shutil.copytree(searched.folder, tmp_path / "home")))
    home.order(word)
    candidate = pipeline.select(on_ray(home), runs=home.runs)
    assert home.befell
    calm = Home(Path(shutil.copytree(searched.folder, tmp_path / "calm")))
    assert candidate.card == pipeline.select(on_ray(calm), runs=calm.runs).card | _costs(candidate.card)


def _costs(card: dict[str, object]) -> dict[str, object]:
    """What a repeat of the same training may change: its seconds."""
    return {key: card[key] for key in ("training_seconds", "confirmed")}


def test_a_trial_without_memory_is_repeated_and_the_search_ends_as_undisturbed(home: Home, searched: Home) -> None:
    disturbed(home, home.settings(search={"trials": 4}), "no_memory")
    settled(home.run)
    assert figures(home.run) == figures(searched.run)
    assert [r["error"] for r in home.card("search")["records"] if r["error"]] == ["MemoryError: no memory for a list"]


def test_a_trial_that_returns_nan_is_complete_and_collapsed_and_no_other_is_touched(home: Home, searched: Home) -> None:
    disturbed(home, home.settings(search={"trials": 4}), "nan")
    settled(home.run)
    records = home.card("search")["records"]
    assert [r["collapsed"] for r in records].count(True) >= 1
    assert "not finite" in records[2]["reason"]
    assert not records[2]["feasible"]
    assert figures(home.run)[:2] == figures(searched.run)[:2]
