"""Claims about a study in PostgreSQL: restarts, kills, second drivers and wrong addresses lose and double nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from raybd.registry import BadInput
from raybd.search import database, local, patient
from raybd.search.database import DatabaseDown, Dropped, Hold, database_url
from raybd.search.opening import DATABASE, JOURNAL
from tests.cluster.postgres import running
from tests.search.fakes import drive, facts, open_decider, pretend, tiny_view
from tests.search.homes import DatabaseHome, Home

pytestmark = pytest.mark.cluster


@pytest.fixture
def home(tmp_path, postgres):
    return DatabaseHome(tmp_path, postgres)


@pytest.fixture
def undisturbed(tmp_path):
    """The same search of 12 trials in a journal, with one worker."""
    with Home(tmp_path / "journal").open(trials=12) as decider:
        drive(decider)
        return facts(decider.records())


def counted(records):
    return [replace(record, number=0) for record in facts(records) if record.counts]


def during(action, after):
    """Do something in another thread, `after` seconds from now."""
    thread = threading.Timer(after, action)
    thread.start()
    return thread


@pytest.mark.parametrize("downtime", [0, 10])
def test_a_database_that_restarts_in_the_middle_costs_no_trial(home, postgres, undisturbed, downtime):
    with home.open(trials=12) as decider:
        drive(decider, stop_after=4)
        restart = during(lambda: postgres.restart(immediate=True, downtime=downtime), 0.2)
        proposals = []
        while (proposal := decider.ask()) is not None:
            time.sleep(0.05)
            decider.tell(proposal.number, pretend(proposal))
            proposals.append(proposal)
            if len(proposals) == 4:
                restart.join()  # the rest is after it
        records = decider.records()
    assert facts(records) == undisturbed
    assert [trial.state.name for trial in home.study().trials] == ["COMPLETE"] * 12


def test_real_trials_with_the_local_executor_outlast_a_restart(home, postgres, tmp_path):
    view = tiny_view()
    with home.open(trials=4) as decider:
        restart = during(lambda: postgres.restart(downtime=1), 0.5)
        local.run(view, decider, trials=tmp_path / "trials")
        restart.join()
        with_restart = facts(decider.records())
    with open_decider(tmp_path / "calm", trials=4) as decider:
        local.run(view, decider, trials=tmp_path / "calm-trials")
        assert with_restart == facts(decider.records())


WRITES = [
    "create_new_trial",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_state_values",
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("done", [True, False], ids=["written", "not written"])
def test_an_answer_that_is_lost_changes_nothing(home, undisturbed, monkeypatch, write, done):
    """Every third call of a kind loses its answer, be it written or not, and once more when it is repeated."""
    real, calls = getattr(RDBStorage, write), []

    def lossy(self, *arguments, **named):
        calls.append(write)
        if len(calls) % 3 == 0:
            if done:
                real(self, *arguments, **named)
            raise Dropped("the answer was lost")
        return real(self, *arguments, **named)

    monkeypatch.setattr(RDBStorage, write, lossy)
    with home.open(trials=12) as decider:
        drive(decider)
        assert facts(decider.records()) == undisturbed
    assert len(calls) >= 12
    assert [trial.state.name for trial in home.study().trials] == ["COMPLETE"] * 12


def test_a_database_that_stays_away_ends_the_search_in_words_and_it_goes_on_later(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(patient, "PATIENCE", 1.0)
    with running() as server:
        monkeypatch.setenv("PGPASSWORD", server.password)
        home = DatabaseHome(tmp_path, server)
        decider = home.open(trials=12)
        drive(decider, stop_after=3)
        asked = decider.ask()
        server.kill()
        begun = time.monotonic()
        with pytest.raises(DatabaseDown, match="has not answered for 1 s"):
            decider.tell(asked.number, pretend(asked))
        with pytest.raises(DatabaseDown):
            decider.ask()
        decider.close()
        assert time.monotonic() - begun < 15
        with pytest.raises(DatabaseDown, match="does not answer"):
            home.open(trials=12)
        server.start()
        with home.open(trials=12) as decider:
            drive(decider)
            assert counted(decider.records()) == counted(undisturbed)
        assert sorted({trial.state.name for trial in home.study().trials}) == ["COMPLETE", "FAIL"]


DRIVER = """
import sys, time
from pathlib import Path
from tests.search.fakes import open_decider, pretend
with open_decider(Path(sys.argv[1]), trials=12, storage=sys.argv[2]) as decider:
    while (proposal := decider.ask()) is not None:
        time.sleep(0.1)
        decider.tell(proposal.number, pretend(proposal))
        print("told", flush=True)
"""


def driver(home, folder="search"):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(home.path / folder), home.url(folder)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_a_driver_that_is_killed_is_gone_from_the_database_and_the_search_goes_on(home, undisturbed):
    process = driver(home)
    for _ in range(3):
        assert process.stdout.readline() == "told\n"
    with pytest.raises(BadInput, match="another process is searching"):
        home.open(trials=12)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    deadline = time.monotonic() + 10
    while True:  # the server sees the end of the connection, a moment later
        try:
            decider = home.open(trials=12)
            break
        except BadInput:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with decider:
        drive(decider)
        assert counted(decider.records()) == counted(undisturbed)
    assert {trial.state.name for trial in home.study().trials} <= {"COMPLETE", "FAIL"}


def test_a_second_driver_is_refused_from_another_folder_too(home, tmp_path):
    with home.open():
        with pytest.raises(BadInput, match="another process is searching"):
            home.open()
        with pytest.raises(BadInput, match="another process is searching"):
            open_decider(tmp_path / "elsewhere", storage=home.url())
    assert not (tmp_path / "elsewhere").exists()


def test_a_study_that_another_took_during_an_outage_is_left_to_it(home, postgres):
    first = home.open(trials=12)
    asked = first.ask()
    name = json.loads((home.path / "search" / DATABASE).read_text())["study"]
    _end_connections(postgres, home.url())
    second = Hold(database_url(home.url()), name)
    second.take()
    before = home.fingerprint()
    with pytest.raises(BadInput, match="another process is searching"):
        first.tell(asked.number, pretend(asked))
    first.close()
    assert home.fingerprint() == before
    second.close()
    with home.open(trials=12) as again:
        drive(again)
        assert again.finished


def test_our_own_connection_of_before_a_cut_does_not_shut_us_out(home):
    """The server may not have seen yet that a cut connection is dead."""
    with home.open() as decider:
        drive(decider, stop_after=1)
        hold = decider._held
        cut, hold._connection = hold._connection, None
        drive(decider)
        assert decider.finished
        cut.close()


def _end_connections(postgres, url):
    with postgres.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [url.rpartition("/")[2]]
        )


def test_a_lost_folder_finds_its_study_again_and_another_search_does_not(home, tmp_path):
    with home.open(trials=5) as decider:
        drive(decider, stop_after=3)
    with open_decider(tmp_path / "new", trials=5, storage=home.url()) as decider:
        assert len(decider.records()) == 3
    with open_decider(tmp_path / "other", trials=5, seed=1, storage=home.url()) as decider:
        assert decider.records() == ()


def test_a_search_stays_where_it_began(home, postgres, tmp_path):
    home.open().close()
    with pytest.raises(BadInput, match=r"kept in PostgreSQL at 127\.0\.0\.1"):
        open_decider(home.path / "search")
    with pytest.raises(BadInput, match="does not hold the study"):
        home.open(storage=postgres.fresh_database())
    open_decider(tmp_path / "journal").close()
    with pytest.raises(BadInput, match="kept in its journal"):
        open_decider(tmp_path / "journal", storage=home.url())
    assert (tmp_path / "journal" / JOURNAL).is_file()


def test_addresses_that_cannot_be_used_are_refused_in_words(home, tmp_path, monkeypatch):
    url = home.url()
    for storage, kind, word in (
        (re.sub("//raybd@", "//raybd:hunter2@", url), BadInput, "PGPASSWORD"),
        (f"{url}?password=hunter2", BadInput, "PGPASSWORD"),
        ("mysql://raybd@db/raybd", BadInput, "expected postgresql://"),
        ("hunter2", BadInput, "expected postgresql://"),
        (re.sub(r":\d+/", ":1/", url), DatabaseDown, "does not answer"),
        (f"{url}-nowhere", BadInput, "does not exist"),
    ):
        with pytest.raises(kind, match=word) as refusal:
            open_decider(tmp_path / "new", storage=storage)
        assert "hunter2" not in str(refusal.value)
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(BadInput, match="password authentication failed"):
        open_decider(tmp_path / "new", storage=url)
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(BadInput, match="no password supplied"):
        open_decider(tmp_path / "new", storage=url)
    assert not (tmp_path / "new").exists()


def test_a_database_that_goes_away_or_makes_us_wait_while_its_tables_are_made_is_down(home, postgres, monkeypatch):
    """Another process makes its tables for longer than we wait; then the connection is cut at that moment."""
    monkeypatch.setattr(database, "_SCHEMA_WAIT", "500ms")
    with postgres.connection(home.url().rpartition("/")[2]) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [database._SCHEMA_LOCK])
        with pytest.raises(DatabaseDown, match="lock timeout"):
            home.open()
    home.open().close()
    real = RDBStorage.__init__

    def cut(self, *arguments, **named):
        real(self, *arguments, **named)
        _end_connections(postgres, home.url())

    monkeypatch.setattr(RDBStorage, "__init__", cut)
    with pytest.raises(DatabaseDown, match="did not answer while"):
        home.open()
    monkeypatch.undo()
    home.open().close()


def test_the_password_is_in_no_file_and_no_text(home, postgres, caplog):
    with home.open() as decider:
        drive(decider)
        shown = [repr(vars(part)) for part in (decider, decider._storage, decider._held, decider._storage._tables)]
    for text in (*shown, caplog.text, *(path.read_text() for path in home.path.rglob("*") if path.is_file())):
        assert postgres.password not in text
