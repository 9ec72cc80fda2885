"""Claims about the decider: budget, limits, repeats, resume after a kill at any point, and equal searches."""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch

from raybd.registry import BadInput
from raybd.search.opening import JOURNAL
from raybd.search.records import Outcome, front_of
from raybd.search.samplers import SAMPLERS
from raybd.search.searcher import ATTEMPTS, TooManyFailures
from tests.search.fakes import LIMITS, SPACE, drive, facts, measured, open_decider, pretend
from tests.search.homes import DatabaseHome, Home

STATES = optuna.trial.TrialState


@pytest.fixture(params=["journal", pytest.param("database", marks=pytest.mark.cluster)])
def home(request, tmp_path):
    """What is claimed holds wherever the study is kept."""
    if request.param == "journal":
        return Home(tmp_path)
    return DatabaseHome(tmp_path, request.getfixturevalue("postgres"))


def test_the_first_settings_come_first_and_the_budget_is_met(home):
    with home.open(trials=12) as decider:
        proposals = drive(decider)
        assert decider.finished
    assert proposals[0].setting == SPACE.first[0]
    assert [p.number for p in proposals] == list(range(12))
    assert all(p.setting in SPACE for p in proposals)
    assert all(p.defense == SPACE.build(p.setting) for p in proposals)
    assert len({p.seed for p in proposals}) == 12


def test_the_same_study_and_seed_twice_propose_the_same(home):
    runs = []
    for name in ("a", "b"):
        with home.open(name, trials=14) as decider:
            drive(decider)
            runs.append(facts(decider.records()))
    assert runs[0] == runs[1]
    with home.open("c", trials=14, seed=1) as decider:
        assert [p.setting for p in drive(decider)][1:] != [r.setting for r in runs[0]][1:]


@pytest.mark.parametrize(
    "sampler", [pytest.param(s, marks=pytest.mark.slow) if s == "gp" else s for s in sorted(SAMPLERS)]
)
def test_every_sampler_proposes_inside_the_space_and_goes_on_after_resume_as_undisturbed(home, sampler):
    trials = 12 if sampler == "gp" else 24  # past each one's random start
    with warnings.catch_warnings(action="error"):
        with home.open("whole", trials=trials, sampler=sampler) as decider:
            whole = [p.setting for p in drive(decider)]
        parts = []
        for stop_after in (4, 6, None):
            with home.open("parts", trials=trials, sampler=sampler) as decider:
                parts += [p.setting for p in drive(decider, stop_after=stop_after)]
    assert all(setting in SPACE for setting in whole)
    assert parts == whole


def test_tpe_learns_where_both_limits_hold(home):
    with home.open(trials=40) as decider:
        drive(decider)
        records = decider.records()
    late = sum(record.feasible for record in records[20:])
    early = sum(record.feasible for record in records[:10])
    assert late / 20 > max(0.3, early / 10)
    assert all(records[n].feasible for n in front_of(records))


def test_records_are_rebuilt_from_the_journal_alone(home):
    with home.open() as decider:
        drive(decider)
        before = decider.records()
    with home.open() as decider:
        assert decider.records() == before
        assert decider.ask() is None


def test_constraints_are_fractions_over_the_limits(home):
    with home.open() as decider:
        decider.tell(decider.ask().number, measured(0.08, 0.97))
        assert not decider.records()[0].feasible
        decider.tell(decider.ask().number, measured(0.04, 0.97))
        assert decider.records()[1].feasible
    first, second = home.study().trials[:2]
    assert first.constraints == pytest.approx({"attack_success_rate": 0.03, "accuracy_drop": -0.01})
    assert max(second.constraints.values()) <= 0
    assert first.values == [0.08, 0.97]


def test_a_collapsed_trial_is_complete_with_its_constraints_violated(home):
    with home.open(trials=2) as decider:
        record = decider.tell(decider.ask().number, measured(0.0, 0.97, collapsed=True))
        assert (record.state, record.collapsed, record.feasible) == ("complete", True, False)
        drive(decider)
        assert decider.finished, "a collapsed trial counts against the budget"
        assert front_of(decider.records()) == (1,)
    assert home.study().trials[0].constraints["accuracy_drop"] >= 1


def test_a_pruned_trial_counts_and_carries_a_violated_constraint(home):
    with home.open(trials=2) as decider:
        record = decider.tell(decider.ask().number, Outcome(state="pruned", reason="hopeless", steps=10))
        assert record.state == "pruned"
        drive(decider)
        assert decider.finished
    trial = home.study().trials[0]
    assert trial.state == STATES.PRUNED
    assert max(trial.constraints.values()) > 0
    assert trial.values is None


def test_a_failed_trial_is_repeated_with_its_setting_and_seed_and_does_not_count(home):
    with home.open(trials=3) as decider:
        first = decider.ask()
        decider.tell(first.number, Outcome.failed(MemoryError("no more")))
        again = decider.ask()
        assert (again.setting, again.seed) == (first.setting, first.seed)
        assert again.number != first.number
        decider.tell(again.number, pretend(again))
        drive(decider)
        records = decider.records()
    assert [r.state for r in records] == ["failed", "complete", "complete", "complete"]
    assert records[0].error == "MemoryError: no more"
    assert home.states() == [STATES.FAIL, *[STATES.COMPLETE] * 3]


def test_a_search_with_failures_proposes_what_one_without_does(home):
    with home.open("calm", trials=12) as decider:
        calm = [p.setting for p in drive(decider)]
    tried = set()

    def flaky(proposal):
        if proposal.seed % 3 == 0 and proposal.seed not in tried:
            tried.add(proposal.seed)
            return Outcome.failed("unlucky")
        return pretend(proposal)

    with home.open("flaky", trials=12) as decider:
        drive(decider, answer=flaky)
        assert [r.setting for r in decider.records() if r.counts] == calm
    assert tried


def test_a_setting_that_always_fails_is_given_up_and_the_search_goes_on(home):
    def answer(proposal):
        return Outcome.failed("bad luck") if proposal.setting == SPACE.first[0] else pretend(proposal)

    with home.open(trials=4) as decider:
        drive(decider, answer=answer)
        records = decider.records()
        assert decider.finished
    assert sum(r.state == "failed" for r in records) == ATTEMPTS
    assert sum(r.counts for r in records) == 4


def test_when_every_trial_fails_the_search_ends_and_says_with_what(home):
    with (
        home.open(trials=4) as decider,
        pytest.raises(TooManyFailures, match="RuntimeError: no weights"),
    ):
        drive(decider, answer=lambda p: Outcome.failed(RuntimeError("no weights")))
    assert set(home.states()) == {STATES.FAIL}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_objective_that_is_not_finite_fails_the_trial_and_is_never_told(home, value):
    broken = replace(measured(0.1, 0.9), objectives={"attack_success_rate": value, "clean_accuracy": 0.9})
    with home.open() as decider:
        record = decider.tell(decider.ask().number, broken)
    assert record.state == "failed"
    assert "attack_success_rate" in record.error
    assert home.states()[0] == STATES.FAIL


def test_a_missing_objective_fails_the_trial(home):
    with home.open() as decider:
        record = decider.tell(decider.ask().number, replace(measured(0.1, 0.9), objectives={}))
    assert record.state == "failed"


def test_late_duplicates_and_strangers_are_ignored(home):
    with home.open() as decider:
        proposal = decider.ask()
        first = decider.tell(proposal.number, pretend(proposal))
        assert decider.tell(proposal.number, Outcome.failed("late")) is None
        assert decider.tell(77, Outcome.failed("stranger")) is None
        assert decider.records() == (first,)


def test_trials_under_way_are_part_of_the_budget(home):
    with home.open(trials=3) as decider:
        under_way = [decider.ask() for _ in range(3)]
        assert decider.ask() is None
        assert not decider.finished
        decider.tell(under_way[1].number, Outcome.failed("worker lost"))
        assert decider.ask().setting == under_way[1].setting


def test_closing_leaves_nothing_running(home):
    with home.open(trials=3) as decider:
        decider.ask()
        decider.ask()
    assert home.states() == [STATES.FAIL, STATES.FAIL]
    with home.open(trials=3) as decider:
        drive(decider)
        assert decider.finished
    assert home.states() == [STATES.FAIL, STATES.FAIL, *[STATES.COMPLETE] * 3]


def test_interruptions_are_not_held_against_a_setting(home):
    for _ in range(ATTEMPTS + 2):
        with home.open() as decider:
            assert decider.ask().setting == SPACE.first[0]
    with home.open() as decider:
        assert len(drive(decider)) == 8


def test_a_kill_before_any_write_to_the_journal_loses_no_trial_and_counts_none_twice(tmp_path):
    """Every beginning of a whole search's journal, also with a half-written line at its end, must resume."""
    with open_decider(tmp_path / "whole", trials=4) as decider:
        drive(decider)
        whole = facts(decider.records())
    journal = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(journal) > 40
    for cut in [*range(30), *range(30, len(journal), 3)]:
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        half = journal[cut][: len(journal[cut]) // 2] if cut % 2 else b""
        (folder / JOURNAL).write_bytes(b"".join(journal[:cut]) + half)
        with open_decider(folder, trials=4) as decider:
            drive(decider)
            records = decider.records()
        counted = [replace(r, number=0) for r in facts(records) if r.counts]
        assert counted == [replace(r, number=0) for r in whole], f"cut before write {cut}"
        assert set(Home(tmp_path).states(folder.name)) <= {STATES.COMPLETE, STATES.FAIL}
        assert sum(s == STATES.COMPLETE for s in Home(tmp_path).states(folder.name)) == 4
        for line in (folder / JOURNAL).read_bytes().splitlines():
            json.loads(line)


def test_an_outcome_half_told_when_interrupted_stands(home, monkeypatch):
    with home.open() as decider:
        proposal = decider.ask()
        monkeypatch.setattr(optuna.Study, "tell", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decider.tell(proposal.number, pretend(proposal))
        monkeypatch.undo()
    with home.open() as decider:
        (record,) = decider.records()
    assert record.state == "complete"
    assert home.states() == [STATES.COMPLETE]


def test_a_proposal_that_is_cut_short_leaves_nothing_running(home, monkeypatch):
    with home.open() as decider:
        drive(decider, stop_after=1)
        monkeypatch.setattr(optuna.samplers.TPESampler, "sample_relative", interrupted)
        monkeypatch.setattr(optuna.samplers.TPESampler, "sample_independent", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decider.ask()
        monkeypatch.undo()
    assert home.states() == [STATES.COMPLETE, STATES.FAIL]


def interrupted(*arguments, **named):
    raise KeyboardInterrupt


def test_two_searches_in_one_folder_are_refused(home):
    with home.open(), pytest.raises(BadInput, match="another process"):
        home.open()
    home.open().close()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"space": replace(SPACE, fixed={**SPACE.fixed, "batch_size": 32})}, "space"),
        ({"suspect_digest": "another"}, "suspect"),
        ({"sampler": "random"}, "sampler"),
        ({"seed": 5}, "seed"),
        ({"limits": replace(LIMITS, max_accuracy_drop=0.5)}, "limits"),
        ({"name": "another"}, "'study'"),
    ],
)
def test_another_study_in_the_folder_is_refused_and_left_as_it_was(home, change, word):
    with home.open() as decider:
        drive(decider, stop_after=3)
        decider.ask()
    home.cut_short()
    before = home.fingerprint()
    with pytest.raises(BadInput, match=word):
        home.open(**change)
    assert home.fingerprint() == before


@pytest.mark.parametrize(("change", "word"), [({"trials": 0}, "trials"), ({"sampler": "tpee"}, "'tpe'")])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change, word):
    with pytest.raises(BadInput, match=word):
        open_decider(tmp_path / "new", **change)
    assert not (tmp_path / "new").exists()


def test_a_finished_study_is_extended(home):
    with home.open("once", trials=9) as decider:
        once = [p.setting for p in drive(decider)]
    with home.open("twice", trials=5) as decider:
        twice = [p.setting for p in drive(decider)]
    with home.open("twice", trials=5, extend=4) as decider:
        assert decider.trials == 9
        drive(decider, stop_after=2)
    with home.open("twice", trials=5) as decider:
        assert decider.trials == 9, "an extension interrupted is finished on resume"
        drive(decider)
        twice = [r.setting for r in decider.records()]
    assert twice == once


def test_optuna_neither_prints_nor_warns(home, capfd):
    with warnings.catch_warnings(action="error"), home.open() as decider:
        drive(decider)
    assert capfd.readouterr() == ("", "")


def test_the_search_does_not_disturb_the_global_random_state(home):
    def seen():  # not Python's own: beartype, which checks types in the tests, draws from it
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002 - the state a library might disturb
        return legacy, torch.get_rng_state().tolist()

    before = seen()
    with home.open() as decider:
        drive(decider)
    assert seen() == before


def test_a_trial_cut_by_the_end_of_its_search_is_interrupted_and_one_with_an_error_failed(tmp_path):
    with open_decider(tmp_path, trials=3) as decider:
        decider.tell(decider.ask().number, Outcome.failed(MemoryError("too large")))
        decider.ask()
    with open_decider(tmp_path, trials=3) as decider:  # told again from the journal alone
        again = decider.records()
    assert [(r.state, r.interrupted) for r in again] == [("failed", False), ("failed", True)]
    assert decider.records() == again


def test_a_trial_whose_driver_was_lost_is_interrupted_too(tmp_path):
    lost = open_decider(tmp_path, trials=3)
    lost.ask()
    lost._held.close()  # as a kill does: nothing is told
    with open_decider(tmp_path, trials=3) as decider:
        assert [(r.interrupted, r.error) for r in decider.records()] == [(True, "interrupted: its driver was lost")]
