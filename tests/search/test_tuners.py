"""Claims about Tuners in a row: whose silence counts, and that each uses the machines there are when it begins."""

from types import SimpleNamespace

import pytest

from raybd.registry import Outage
from raybd.search import tuner
from raybd.search.tuner import pool, tuners
from raybd.search.tuner.trials import RaySearcher
from tests.search.fakes import drive, open_decider

PATIENCE = 60.0


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, and the actors that were killed."""
    fake = SimpleNamespace(now=0.0, killed=[])
    for module in (tuners, pool):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: fake.now))
    monkeypatch.setattr(tuners, "ray", SimpleNamespace(kill=fake.killed.append))
    return fake


class Trial:
    """What is asked of one of Tune's trials."""

    def __init__(self, name):
        self.trial_id = name
        self.temporary_state = SimpleNamespace(ray_actor=f"actor of {name}")


@pytest.fixture
def searcher(tmp_path):
    with open_decider(tmp_path) as decider:
        yield RaySearcher(decider, trials=tmp_path / "trials", on_trial=None, on_progress=None, segment=8)


@pytest.fixture
def losses(clock, searcher):
    return tuners.Losses(searcher, PATIENCE)


def begun(losses, names):
    trials = [Trial(name) for name in names]
    for trial in trials:
        losses.on_trial_start(trial=trial)
    return trials


def step(losses, clock, seconds=0.1):
    clock.now += seconds
    losses.on_step_end()


def test_a_worker_is_ended_once_it_has_shown_nothing_for_so_long(losses, clock):
    lively, _ = begun(losses, "ab")
    for _ in range(590):
        step(losses, clock)
    losses.on_trial_result(trial=lively)
    assert clock.killed == []
    for _ in range(20):
        step(losses, clock)
    assert clock.killed == ["actor of b"]


def test_while_the_driver_is_held_up_itself_nobody_is_silent(losses, clock):
    """Its database is away for five minutes; what the workers reported meanwhile is read one report a step."""
    trials = begun(losses, "abc")
    step(losses, clock, seconds=300)
    for trial in trials:
        step(losses, clock)
        losses.on_trial_result(trial=trial)
    step(losses, clock, seconds=300)
    assert clock.killed == []


def steps(losses, clock):
    """An hour of them."""
    for _ in range(3601):
        step(losses, clock, seconds=1)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_search_whose_machines_are_gone_says_so_and_ends(clock, searcher, caplog):
    losses = tuners.Losses(searcher, room=lambda: 0)
    (trial,) = begun(losses, "a")
    steps(losses, clock)
    assert warnings(caplog) == [], "a trial runs"
    losses.on_trial_complete(trial=trial)
    gone = clock.now
    with pytest.raises(Outage, match="for 10 minutes no machine"):
        steps(losses, clock)
    assert pool.MACHINE_SECONDS <= clock.now - gone <= pool.MACHINE_SECONDS + 2 * pool.LOOK_S
    assert warnings(caplog) == [f"for {n} minutes no worker has started on the Ray cluster" for n in (3, 6, 9)]


@pytest.mark.parametrize("room", [lambda: 1, None], ids=["others have the places", "an autoscaler was asked"])
def test_a_search_that_waits_for_a_place_says_so_and_waits_on(clock, searcher, caplog, room):
    losses = tuners.Losses(searcher, room=room)
    steps(losses, clock)
    assert len(warnings(caplog)) == pytest.approx(3600 / pool.WARN_S, abs=2)
    begun(losses, "a")
    caplog.clear()
    steps(losses, clock)
    assert warnings(caplog) == []


def test_each_tuner_runs_as_many_trials_at_once_as_the_cluster_holds_when_it_begins(monkeypatch, tmp_path):
    machines, used = [2, 20, 0], []

    def fit(trainable, searcher, storage, slots, losses):
        used.append((slots, searcher._left))
        drive(searcher._decider, stop_after=1)

    monkeypatch.setattr(tuner, "room", lambda cpus, gpus: machines[len(used)])
    monkeypatch.setattr(tuners, "fit", fit)
    joined = tuner.Workers(cpus=1, gpus=0, slots=2, joined=True, elastic=True)
    with open_decider(tmp_path, trials=3) as decider:
        tuners.segments(None, decider, trials=tmp_path / "trials", slots=joined.now)
    assert used == [(2, 500), (20, 800), (1, 500)]


def test_a_number_of_workers_that_was_asked_for_stays(monkeypatch):
    monkeypatch.setattr(tuner, "room", lambda cpus, gpus: 20)
    assert tuner.Workers(cpus=1, gpus=0, slots=2, joined=True).now() == 2
