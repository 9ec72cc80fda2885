"""Claims about the driver of a long search: what a trial costs it does not grow with the trials before."""

import json
import random
import sys
from collections import Counter
from types import SimpleNamespace

from raybd.registry import as_json
from raybd.search import local, records
from raybd.search.halving import Halving
from raybd.search.journal import HeldJournal
from raybd.search.records import discard_weights, front_of
from raybd.search.tuner.trials import OUTCOME, RaySearcher
from tests.search.fakes import drive, measured, open_decider

BATCH = 40


def calls_of(act):
    """How many functions `act` calls, generators resumed among them: an amount of work that no other load changes."""
    count = 0

    def seen(frame, event, argument):
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


def test_a_trial_costs_the_driver_no_more_after_many_than_after_few(tmp_path, monkeypatch):
    monkeypatch.setattr(HeldJournal, "sync", lambda self: None)
    chance = random.Random(0)
    with open_decider(tmp_path, trials=4 * BATCH, sampler="random") as decider:
        searcher = RaySearcher(decider, trials=tmp_path / "trials", on_trial=None, on_progress=None, segment=4 * BATCH)

        def batch():
            for i in range(BATCH):
                searcher.suggest(str(i))
                outcome = measured(chance.random(), chance.random())
                searcher.on_trial_complete(str(i), {OUTCOME: json.dumps(as_json(outcome))})

        costs = [calls_of(batch) for _ in range(4)]
        assert decider.finished
    assert costs[3] < 1.15 * costs[1]


def test_only_the_front_and_the_newcomer_are_looked_at_when_a_trial_ends(tmp_path, monkeypatch):
    looked_at = []

    def counting(ended):
        looked_at.append(len(tuple(ended)))
        return front_of(ended)

    monkeypatch.setattr(HeldJournal, "sync", lambda self: None)
    monkeypatch.setattr(records, "front_of", counting)
    monkeypatch.setattr(local, "attempt", lambda *arguments, **named: None)
    monkeypatch.setattr(local, "drain", lambda *arguments: measured(chance.random(), chance.random()))
    chance = random.Random(1)
    view = type("View", (), {"on_device": lambda self: self})()
    with open_decider(tmp_path, trials=60, sampler="random") as decider:
        local.run(view, decider, trials=tmp_path / "trials")
        ended = decider.records()
    sizes = [len(front_of(ended[:n])) for n in range(60)]
    assert looked_at == [0, *(size + 1 for size in sizes)]


def test_weights_kept_one_trial_at_a_time_are_those_of_the_front_of_all(tmp_path):
    chance = random.Random(2)

    def answer(proposal):
        # Coarse figures, so that some are equal; the first trials are infeasible, and some have collapsed.
        asr, accuracy = chance.randrange(20) / 20, 0.9 + chance.randrange(10) / 100
        return measured(asr, accuracy if proposal.number > 20 else 0.9, collapsed=proposal.number % 7 == 3)

    with open_decider(tmp_path, trials=80, sampler="random") as decider:
        drive(decider, answer=answer)
        ended = decider.records()
    trials, front, seen = tmp_path / "trials", (), Counter()
    for n, record in enumerate(ended, start=1):
        (trials / str(record.number)).mkdir(parents=True)
        front = discard_weights(trials, (*front, record))
        kept = {int(folder.name) for folder in trials.iterdir()}
        assert kept == set(front_of(ended[:n])) == {r.number for r in front}
        seen[len(kept)] += 1
    assert len(seen) > 1, "the front grew and shrank"


def test_a_free_worker_goes_to_the_trial_that_came_last_and_no_starting_one_is_thrown_away():
    def trial(status):
        return SimpleNamespace(status=status)

    starting, running, newcomer, ended = (trial(s) for s in ("PENDING", "RUNNING", "PENDING", "TERMINATED"))
    scheduler = Halving(SimpleNamespace(gives_up=lambda trial_id, result: False))

    def chosen(*trials):
        return scheduler.choose_trial_to_run(SimpleNamespace(get_trials=lambda: list(trials)))

    assert chosen(starting, running, newcomer, ended) is newcomer
    assert chosen(starting, running) is starting
    assert chosen(running, ended) is None
