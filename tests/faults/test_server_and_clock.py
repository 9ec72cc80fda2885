"""The tracking server goes away, a promotion is cut short, the clock is set back: each record once, in order."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd import pipeline, tracking
from raybd.search.records import TrialRecord
from raybd.tracking.client import connect
from tests.faults.checks import figures, settled
from tests.faults.homes import CLI, Home
from tests.tracking.test_server import Server

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copyfile(migrated, folder / "mlflow.db")
    running = Server(folder)
    running.start()
    yield running
    running.stop()


@pytest.mark.cluster
@pytest.mark.parametrize("outage", ["start", "middle", "end"])
def test_a_run_whose_server_goes_away_is_delivered_once_and_then_promoted(
    server: Server, home: Home, outage: str
) -> None:
    settings = home.settings(search={"trials": 3}, tracking={"uri": server.uri})
    if outage == "start":
        server.stop()

    def in_the_middle(record: TrialRecord) -> None:
        if outage == "middle" and record.number == 1:
            server.stop()

    def at_the_end(word: str) -> None:
        if outage == "end" and word == "select":
            server.stop()

    with pytest.raises(tracking.Unreachable):
        pipeline.run(settings, runs=home.runs, on_trial=in_the_middle, on_stage=at_the_end)
    server.start()
    assert pipeline.sync(settings, runs=home.runs).left == 0
    again = pipeline.sync(settings, runs=home.runs)
    assert (again.sent, again.left) == (0, 0)
    pipeline.run(settings, runs=home.runs)
    settled(home.run)
    assert home.card("promote")["version"] == "1"


KILLED_BEFORE = """
import os, signal
from mlflow import MlflowClient

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

MlflowClient.{call} = die
"""


@pytest.mark.cluster
@pytest.mark.parametrize("call", ["create_model_version", "set_registered_model_alias"])
def test_a_promotion_killed_on_its_way_is_finished_by_the_same_command(home: Home, call: str) -> None:
    settings = home.settings(search={"trials": 2})
    for act in (pipeline.search, pipeline.select, pipeline.assess):
        act(settings, runs=home.runs)
    cut = home.raybd("promote", code=KILLED_BEFORE.format(call=call) + CLI)
    assert cut.returncode == -9, cut.stderr
    assert not (home.run / "promote" / "card.json").exists()
    client = connect(f"sqlite:///{home.run / 'mlflow.db'}")
    assert not client.get_registered_model("tiny").aliases, "the alias moves last"
    done = home.raybd("promote")
    assert done.returncode == 0, done.stderr
    settled(home.run)
    assert [str(v.version) for v in client.search_model_versions("name = 'tiny'")] == [home.card("promote")["version"]]


@pytest.mark.cluster
def test_a_clock_set_back_leaves_order_and_durations_sane(
    home: Home, searched: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour in the middle of the search, a day before it is gone on with."""
    real, real_ns, back = time.time, time.time_ns, [0]
    monkeypatch.setattr(time, "time", lambda: real() - back[0])
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() - back[0] * 10**9)

    def set_back(record: TrialRecord) -> None:
        if record.number == 1:
            back[0] = 3600

    settings = home.settings(search={"trials": 3})
    pipeline.search(settings, runs=home.runs, on_trial=set_back)
    pipeline.report(settings, runs=home.runs)
    seconds = home.card("search")["seconds"]
    back[0] = 86400
    extended = home.settings(search={"trials": 4})
    pipeline.search(extended, runs=home.runs, resume=True)
    pipeline.report(extended, runs=home.runs)
    settled(home.run)
    assert figures(home.run) == figures(searched.run)
    assert home.card("search")["seconds"] > seconds > 0
    study = _study_run(home)
    assert study.data.tags["raybd.now.search.trials"] == "4", "what was said last counts, whatever the clock says"
    assert study.info.status == "FINISHED"
    assert study.info.end_time > study.info.start_time


def _study_run(home: Home) -> object:
    client = connect(f"sqlite:///{home.run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("raybd/tiny").experiment_id
    (found,) = client.search_runs([experiment], "tags.`raybd.kind` = 'study'")
    return found
