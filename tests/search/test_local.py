"""Claims about the in-process executor: real trials, the same on every run and after every resume."""

import pytest

from raybd.defenses import FineTuning
from raybd.search import local
from raybd.search.records import Job, front_of, weights_of
from raybd.search.searcher import TooManyFailures
from raybd.search.trial import run_trial
from tests.search.fakes import facts, open_decider, tiny_view


@pytest.fixture(scope="module")
def view():
    return tiny_view()


def test_the_same_study_and_seed_twice_give_identical_settings_and_figures(view, tmp_path):
    runs = []
    for name in ("a", "b"):
        with open_decider(tmp_path / name, trials=6) as decider:
            local.run(view, decider, trials=tmp_path / name / "trials")
            runs.append(facts(decider.records()))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 6


def test_a_search_interrupted_and_resumed_equals_an_undisturbed_one(view, tmp_path):
    with open_decider(tmp_path / "whole", trials=6) as decider:
        local.run(view, decider, trials=tmp_path / "whole" / "trials")
        whole = facts(decider.records())

    class Enough(Exception):
        pass

    def stop(record):
        if record.number == 2:
            raise Enough

    def die(number, epoch):
        if number == 4:
            raise Enough

    parts = tmp_path / "parts"
    for on_trial, on_progress in ((stop, None), (None, die), (None, None)):
        with open_decider(parts, trials=6) as decider:
            try:
                local.run(view, decider, trials=parts / "trials", on_trial=on_trial, on_progress=on_progress)
            except Enough:
                continue
            records = decider.records()
    resumed = [r for r in facts(records) if r.counts]
    assert [(r.setting, r.seed, r.objectives, r.accuracy_drop) for r in resumed] == [
        (r.setting, r.seed, r.objectives, r.accuracy_drop) for r in whole
    ]
    assert [r.error for r in records if not r.counts] == ["interrupted"]


def test_callbacks_see_every_trial_and_only_the_fronts_weights_stay(view, tmp_path):
    seen, stretches = [], []
    with open_decider(tmp_path, trials=5) as decider:
        local.run(
            view,
            decider,
            trials=tmp_path / "trials",
            on_trial=seen.append,
            on_progress=lambda number, epoch: stretches.append((number, epoch.steps)),
        )
        records = decider.records()
    assert tuple(seen) == records
    assert {number for number, _ in stretches} == set(range(5))
    kept = {int(folder.name) for folder in (tmp_path / "trials").iterdir()}
    assert kept == set(front_of(records))
    assert all(weights_of(tmp_path / "trials", n).is_file() for n in kept)


def test_when_every_trial_fails_the_search_ends_with_the_reason(view, tmp_path, monkeypatch):
    def broken(self, view, data, *, compute, seed):
        raise ArithmeticError("no such number")
        yield

    monkeypatch.setattr("raybd.defenses.SuperFineTuning.run", broken)
    with open_decider(tmp_path, trials=5) as decider, pytest.raises(TooManyFailures, match="no such number"):
        local.run(view, decider, trials=tmp_path / "trials")


def test_jobs_come_back_in_their_order(view, tmp_path):
    jobs = [
        Job(defense=FineTuning(epochs=e, batch_size=16), seed=e, weights=tmp_path / str(e) / "weights.safetensors")
        for e in (2, 1)
    ]
    seen = []
    outcomes = local.map_jobs(view, jobs, on_job=lambda job, outcome: seen.append(job))
    assert [o.steps for o in outcomes] == [6, 3]
    assert seen == jobs
    assert all(job.weights.is_file() for job in jobs)
    alone = run_trial(view, jobs[1].defense, seed=1)
    assert alone.objectives == outcomes[1].objectives
