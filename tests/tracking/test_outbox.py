"""When MLflow is down the study goes on, and what waited arrives exactly once, whatever breaks on the way."""

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from raybd.registry import BadInput, write_json
from raybd.tracking import Tracker, delivery, sync
from raybd.tracking.client import connect
from raybd.tracking.outbox import Outbox
from tests.tracking.conftest import SEQUELA, by_name, row, trial

EVERYTHING = {"demo", "trial-0", "trial-1", "fine_tuning"}


def study(tracker, net) -> str | None:
    """A small study from start to finish; returns its model's address."""
    tracker.start(params={"trials": 2}, tags={}, artifacts={"study.yaml": "name: demo\n"})
    for number in range(2):
        tracker.trial(trial(number))
    address = tracker.model(1, **net.given)
    tracker.reference("fine_tuning", row())
    tracker.sequela(SEQUELA)
    tracker.finish({"attack_success_rate": 0.05}, {"raybd.done": True}, {})
    return address


def check_everything_is_there_once(tracker) -> None:
    found = by_name(tracker)
    assert set(found) == EVERYTHING
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    client = connect(tracker.uri)
    for run in found.values():
        for metric in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, metric)
            assert len(points) == (3 if metric.startswith("reinjection") else 1), metric
    (model,) = client.search_logged_models([found["demo"].info.experiment_id])
    assert (model.name, model.status.value, model.source_run_id) == ("trial-1", "READY", found["trial-1"].info.run_id)
    assert len(found["trial-1"].outputs.model_outputs) == 1
    assert {f.path for f in client.list_artifacts(found["demo"].info.run_id)} == {"study.yaml", "sequela.json"}


@pytest.fixture(scope="module")
def waiting(tmp_path_factory, net) -> Path:
    """A run folder whose whole study waits, because its server was down from start to finish."""
    folder = tmp_path_factory.mktemp("outage") / "demo"
    folder.mkdir()
    tracker = Tracker("http://127.0.0.1:1", folder, "demo")
    started = time.monotonic()
    assert study(tracker, net) is None
    assert time.monotonic() - started < 30  # one refused call, one traced model: no four-minute stalls
    assert tracker.waiting == 7
    assert "127.0.0.1" in tracker.reason
    return folder


@pytest.fixture
def outage(waiting, run_dir) -> Path:
    """A copy of `waiting` whose server is back: the run folder's own database."""
    shutil.copytree(waiting, run_dir, dirs_exist_ok=True)
    write_json(run_dir / "tracking.json", {**json.loads((run_dir / "tracking.json").read_text()), "uri": None})
    return run_dir


def test_a_whole_study_without_a_server_waits_and_is_delivered_once(outage):
    result = sync(outage)
    assert (result.sent, result.already_there, result.left, result.reason) == (7, 0, 0, "")
    check_everything_is_there_once(Tracker(None, outage, "demo"))
    assert not (outage / "outbox.jsonl").exists()
    assert not (outage / "mlmodels").exists()
    again = sync(outage)
    assert (again.sent, again.already_there, again.left) == (0, 0, 0)


def test_a_server_that_stays_down_leaves_everything_in_place(waiting, tmp_path):
    shutil.copytree(waiting, tmp_path / "demo")
    before = (tmp_path / "demo" / "outbox.jsonl").read_bytes()
    result = sync(tmp_path / "demo", "http://127.0.0.1:1")
    assert (result.sent, result.already_there, result.left) == (0, 0, 7)
    assert "127.0.0.1" in result.reason
    assert (tmp_path / "demo" / "outbox.jsonl").read_bytes() == before


def test_a_closed_port_costs_a_search_almost_nothing_per_trial(run_dir, closed_port):
    tracker = Tracker(closed_port, run_dir, "demo")
    tracker.trial(trial(0))  # finds out
    started = time.monotonic()
    for number in range(1, 21):
        tracker.trial(trial(number))
    assert time.monotonic() - started < 2
    assert tracker.waiting == 21


def test_a_folder_in_which_nothing_was_tracked_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"nothing to sync.*no tracking\.json"):
        sync(tmp_path)
    assert list(tmp_path.iterdir()) == []


class Line:
    """A client whose calls break: before they arrive, or after, when only the answer is lost."""

    def __init__(self, client) -> None:
        self.client, self.calls, self.broken = client, 0, ()
        self.answer_lost, self.error = False, ConnectionError("line cut")

    def __getattr__(self, name):
        real = getattr(self.client, name)

        def call(*args, **kwargs):
            self.calls += 1
            cut = self.calls in self.broken
            if cut and not self.answer_lost:
                raise self.error
            result = real(*args, **kwargs)
            if cut:
                raise self.error
            return result

        return call


@pytest.fixture
def line(monkeypatch):
    """The line of the last connection made; set `broken` to the numbers of the calls that fail."""
    made = []

    def cut(uri):
        made.append(Line(connect(uri)))
        return made[-1]

    monkeypatch.setattr(delivery, "connect", cut)
    return made


def test_the_search_goes_on_when_the_server_goes_away_and_comes_back(tracker, line, net):
    tracker.start(params={}, tags={}, artifacts={})
    tracker.trial(trial(0))
    line[0].broken = range(1, 10_000)
    tracker.trial(trial(1))
    tracker.trial(trial(2))
    assert tracker.waiting == 2
    assert "line cut" in tracker.reason
    line[0].broken = ()
    tracker.trial(trial(3))  # it rests after a failure, and does not try at every trial
    assert tracker.waiting == 3
    tracker._sender.try_now()
    tracker.trial(trial(4))
    assert (tracker.waiting, tracker.reason) == (0, "")
    assert set(by_name(tracker)) == {"demo", *(f"trial-{n}" for n in range(5))}


def test_finish_tries_again_and_says_what_is_left(tracker, line):
    tracker.trial(trial(0))
    line[0].broken = range(1, 10_000)
    tracker.trial(trial(1))
    result = tracker.finish({}, {}, {})
    assert (result.sent, result.left) == (0, 2)
    assert "line cut" in result.reason
    line[0].broken = ()
    result = tracker.finish({}, {}, {})
    assert (result.sent, result.left, result.reason) == (3, 0, "")


def test_a_server_that_comes_back_does_not_hold_up_the_search(tracker, line):
    tracker.trial(trial(0))
    line[0].broken = range(1, 10_000)
    for number in range(1, 31):
        tracker.trial(trial(number))
    line[0].broken = ()
    tracker._sender.try_now()
    tracker.trial(trial(31))
    assert tracker.waiting == 31 - 20


def test_a_record_that_mlflow_refuses_does_not_stop_the_others(tracker, line, run_dir):
    from mlflow.exceptions import MlflowException

    tracker.start(params={}, tags={}, artifacts={})
    line[0].error = MlflowException.invalid_parameter_value("never")
    line[0].broken = {line[0].calls + 1}
    tracker.trial(trial(0))
    tracker.finish({}, {}, {"report.html": run_dir / "missing.html"})
    tracker.trial(trial(1))
    result = sync(run_dir)
    assert (result.sent, result.left) == (1, 1)
    assert "missing.html" in result.reason
    assert set(by_name(tracker)) == {"demo", "trial-0", "trial-1"}


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


def broken_sync(folder, patch, *, at: int, killed: bool, answer_lost: bool) -> int:
    """Deliver over a line that breaks at call `at`; returns how many calls there were."""
    made = []

    def cut(uri):
        made.append(Line(connect(uri)))
        made[-1].answer_lost, made[-1].broken = answer_lost, {at}
        made[-1].error = Killed() if killed else ConnectionError("line cut")
        return made[-1]

    with patch.context() as during:
        during.setattr(delivery, "connect", cut)
        if killed:
            during.setattr(Outbox, "drop", lambda self, keys: None)
        with contextlib.suppress(Killed):
            sync(folder)
    return made[-1].calls


@pytest.mark.parametrize("answer_lost", [False, True], ids=["call lost", "answer lost"])
def test_a_delivery_killed_over_and_over_loses_and_doubles_nothing(outage, answer_lost, monkeypatch):
    """Killed at its first call, then at its second, and so on, until one gets to its end."""
    at = 1
    while broken_sync(outage, monkeypatch, at=at, killed=True, answer_lost=answer_lost) == at:
        at += 1
    assert at > 10
    assert sync(outage).left == 0
    check_everything_is_there_once(Tracker(None, outage, "demo"))


@pytest.mark.slow  # a folder, a database and two deliveries for each of some 35 calls
@pytest.mark.parametrize("answer_lost", [False, True], ids=["call lost", "answer lost"])
@pytest.mark.parametrize("killed", [False, True], ids=["outage", "killed"])
def test_a_failure_at_any_one_call_loses_and_doubles_nothing(outage, answer_lost, killed, monkeypatch, tmp_path):
    whole = shutil.copytree(outage, tmp_path / "whole")
    calls = broken_sync(whole, monkeypatch, at=0, killed=killed, answer_lost=answer_lost)
    assert calls > 25
    for at in range(1, calls + 1):
        folder = shutil.copytree(outage, tmp_path / f"at-{at}")
        broken_sync(folder, monkeypatch, at=at, killed=killed, answer_lost=answer_lost)
        assert sync(folder).left == 0
        check_everything_is_there_once(Tracker(None, folder, "demo"))
        assert not (folder / "outbox.jsonl").exists()


def test_a_line_cut_short_by_a_crash_is_kept_and_the_next_ones_are_delivered(outage):
    file = outage / "outbox.jsonl"
    file.write_bytes(file.read_bytes() + b'{"key": "torn')
    tracker = Tracker(None, outage, "demo")
    tracker.trial(trial(7))
    result = sync(outage)
    assert result.left == 1
    assert "1 lines of outbox.jsonl cannot be read" in result.reason
    assert file.read_text() == '{"key": "torn\n'
    assert set(by_name(tracker)) == {*EVERYTHING, "trial-7"}


def test_two_senders_of_one_folder_do_not_deliver_the_same_twice(outage):
    first, second = Tracker(None, outage, "demo"), Tracker(None, outage, "demo")  # both have read the outbox
    first.finish({}, {}, {})
    second.trial(trial(0))
    second.trial(trial(1))
    assert set(by_name(first)) == EVERYTHING


def test_a_sync_in_the_midst_of_a_searchs_own_delivery_doubles_nothing(outage, monkeypatch):
    real, syncs = delivery.Delivery.deliver, []

    def deliver(self, record):
        sent = real(self, record)
        if not syncs:  # the search has delivered its first record, and knows the list of the others
            syncs.append(threading.Thread(target=sync, args=[outage]))
            syncs[0].start()
            syncs[0].join(2)
        return sent

    monkeypatch.setattr(delivery.Delivery, "deliver", deliver)
    tracker = Tracker(None, outage, "demo")
    assert tracker._sender.flush().left == 0
    syncs[0].join()
    check_everything_is_there_once(tracker)


def test_what_another_sender_wrote_since_is_not_written_again(tracker, run_dir):
    tracker.trial(trial(0))  # from now on it knows what MLflow holds
    Tracker(None, run_dir, "demo").trial(trial(1))
    tracker.trial(trial(1))
    assert set(by_name(tracker)) == {"demo", "trial-0", "trial-1"}


def test_a_relative_database_is_the_studys_for_every_command_wherever_it_runs(run_dir, tmp_path, monkeypatch):
    base = tmp_path / "study"
    base.mkdir()
    (run_dir / "mlflow.db").rename(base / "team.db")
    tracker = Tracker("sqlite:///team.db", run_dir, "demo", base=base)
    assert tracker.uri == f"sqlite:///{base / 'team.db'}"
    with monkeypatch.context() as during:
        during.setattr(delivery, "connect", lambda uri: Line(None))  # down
        tracker.trial(trial(0))
    assert tracker.waiting == 1
    monkeypatch.chdir(run_dir)
    assert sync(run_dir).sent == 1
    assert set(by_name(tracker)) == {"demo", "trial-0"}
    assert not list(run_dir.glob("*.db*"))


def test_sync_goes_to_the_address_that_the_study_names_now(waiting, run_dir):
    shutil.copytree(waiting, run_dir, dirs_exist_ok=True)  # it last named a server that is gone
    assert sync(run_dir, "sqlite:///mlflow.db").left == 0
    check_everything_is_there_once(Tracker(None, run_dir, "demo"))
    assert json.loads((run_dir / "tracking.json").read_text())["uri"] == f"sqlite:///{run_dir / 'mlflow.db'}"


def test_trials_written_together_arrive_once_though_some_fail(run_dir, tracker, monkeypatch):
    write = delivery.Delivery._child

    def failing(self, record):
        written = write(self, record)
        if record.name == "trial-1":
            raise ConnectionError("the answer was lost")
        return written

    monkeypatch.setattr(delivery.Delivery, "_child", failing)
    tracker.trials([trial(number) for number in range(4)])
    assert (tracker.waiting, tracker.reason) == (1, "the answer was lost")
    monkeypatch.undo()
    tracker.trials([trial(4)])
    assert tracker.waiting == 2, "what comes later waits behind it"
    assert sync(run_dir).left == 0
    assert set(by_name(tracker)) == {"demo", *(f"trial-{number}" for number in range(5))}
