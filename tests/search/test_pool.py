"""Claims about calls on actors whose machines die: one loss costs one attempt, and no wait is silent or for ever."""

import logging
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from raybd.registry import Outage
from raybd.search import tuner
from raybd.search.tuner import jobs, pool


class FakeRay:
    """A Ray of machines that the test takes away; what is under way on one of them, or asked of it, is then lost.

    `places` says on which machine each actor is made; None for one that is made nowhere yet. A call lasts a second.
    """

    def __init__(self, places):
        self.now, self.slept = 0.0, 0.0
        self.places = list(places)
        self.dead = set()
        self.ran = []
        self.on_call = lambda place, call: None

    def remote(self, **_):
        return lambda kind: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.make))

    def make(self, _courier):
        return Actor(self.places.pop(0))

    def wait(self, refs, *, num_returns, timeout):
        assert refs, "a wait for nothing"
        ended = [ref for ref in refs if ref.place is not None]
        self.now += 1.0 if ended else timeout
        return ended[:1], []

    def get(self, ref, timeout=None):
        if ref.act is not None:
            self.on_call(ref.place, ref.act)
        if ref.place in self.dead:
            raise ActorDiedError
        if ref.act is not None:
            self.ran.append(ref.act)
        return ref.act

    def kill(self, _actor):
        pass

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept += seconds


class Ref:
    def __init__(self, place, act=None):
        self.place, self.act = place, act


class Actor:
    def __init__(self, place):
        def asked(act=None):
            return Ref(place, act)

        self.silent = SimpleNamespace(remote=asked)
        self.call = SimpleNamespace(remote=asked)


@pytest.fixture
def on(monkeypatch):
    """Put a fake Ray with these places under the pool, and its clock."""

    def install(*places):
        fake = FakeRay(places)
        monkeypatch.setattr(jobs, "ray", fake)
        monkeypatch.setattr(pool, "ray", fake)
        monkeypatch.setattr(pool, "time", fake)
        return fake

    return install


def spread(n, actors, **how):
    return jobs.spread("call", [(i,) for i in range(n)], actors=actors, options={}, **how)


def test_a_machine_lost_with_idle_actors_costs_its_last_call_one_attempt(on):
    ray = on("old", "old", "old", "old", *["new"] * 4)
    tries = []

    def last_call_dies(place, call):
        if call == 3:
            tries.append(place)
            if len(ray.ran) == 3:
                ray.dead.add("old")

    ray.on_call = last_call_dies
    assert spread(4, 4, lost=str) == [0, 1, 2, 3]
    assert tries == ["old", "new"]


def test_an_actor_lost_before_it_started_costs_no_attempt_and_is_started_again_after_a_pause(on):
    ray = on("dead", "dead", "dead", "dead", "new")
    ray.dead.add("dead")
    assert spread(2, 1, lost=str) == [0, 1]
    assert ray.slept == 1 + 2 + 3 + 4


def test_actors_that_can_never_be_started_end_the_wait(on):
    ray = on(*["dead"] * 100)
    ray.dead.add("dead")
    with pytest.raises(RuntimeError, match="no worker can be started"):
        spread(4, 2, lost=str)
    assert len(ray.places) == 100 - 2 * pool.STARTS


def test_an_actor_that_can_never_be_started_is_done_without_where_there_is_another(on):
    ray = on("dead", "new", *["dead"] * 4)
    ray.dead.add("dead")
    assert spread(20, 2, lost=str) == list(range(20))


@pytest.mark.parametrize("patience", [None, 20.0])
def test_a_wait_on_a_cluster_that_holds_no_worker_is_told_and_ends(on, caplog, patience):
    ray = on(None)
    with caplog.at_level(logging.WARNING), pytest.raises(Outage, match="for 10 minutes no machine"):
        spread(1, 1, room=lambda: 0, patience=patience)
    assert pool.MACHINE_SECONDS <= ray.now <= pool.MACHINE_SECONDS + 2 * pool.LOOK_S
    assert [record.getMessage() for record in caplog.records] == [
        f"for {minutes} minutes no worker has started on the Ray cluster" for minutes in (3, 6, 9)
    ]


@pytest.mark.parametrize("room", [lambda: 1, None], ids=["others have the places", "an autoscaler was asked"])
def test_a_wait_for_a_place_that_may_come_is_told_and_goes_on(on, caplog, monkeypatch, room):
    ray = on(None, "new")

    def wait(refs, *, num_returns, timeout):
        ray.now += timeout
        for ref in refs if ray.now >= 3600 else ():
            ref.place = "new"
        return [ref for ref in refs if ref.place is not None][:1], []

    monkeypatch.setattr(ray, "wait", wait)
    with caplog.at_level(logging.WARNING):
        assert spread(1, 1, room=room) == [0]
    assert len(caplog.records) == 3600 // pool.WARN_S - 1


@pytest.mark.parametrize(
    ("joined", "elastic", "awaited"), [(False, False, False), (True, True, False), (True, False, True)]
)
def test_only_where_an_autoscaler_was_asked_for_workers_are_machines_awaited_for_ever(
    monkeypatch, joined, elastic, awaited
):
    said = {}
    monkeypatch.setattr(tuner, "spread", lambda method, calls, **how: said.update(how) or [])
    monkeypatch.setattr(tuner, "room", lambda cpus, gpus: cpus)
    tuner.Workers(cpus=3, gpus=0, slots=1, joined=joined, elastic=elastic).map_calls(str, [])
    assert (said["room"] is None) == awaited
    assert awaited or said["room"]() == 3
