"""Claims about confirmation: who is retrained, who wins, whose weights ship, and what is said if nobody can."""

import dataclasses

import pytest

from raybd.gate import Gate
from raybd.search.confirm import confirm, nothing_feasible
from raybd.search.records import Job, Outcome, TrialRecord
from raybd.seeds import derive
from tests.search.fakes import SPACE, measured

GATE = Gate(
    max_attack_success_rate=0.05,
    max_accuracy_drop=0.03,
    max_class_accuracy_drop=0.25,
    max_membership_auc_rise=None,
)


def entry(number, asr, accuracy, *, collapsed=False, **setting):
    outcome = measured(asr, accuracy, collapsed=collapsed)
    return TrialRecord.of(number, {**SPACE.first[0], **setting}, number, outcome, feasible=True)


def jobs_giving(answers, asked):
    """A `map_jobs` that answers by setting; each seed of a setting gets the next answer."""
    left = {key: list(outcomes) for key, outcomes in answers.items()}

    def map_jobs(jobs):
        asked.extend(jobs)
        return [left[job.defense.lr_max1].pop(0) for job in jobs]

    return map_jobs


RECORDS = [
    entry(0, 0.01, 0.975, lr_max1=0.1),
    entry(1, 0.002, 0.978, lr_max1=0.2),
    entry(2, 0.02, 0.970, lr_max1=0.3),
    entry(3, 0.005, 0.977, lr_max1=0.4),
    entry(4, 0.40, 0.980, lr_max1=0.5),
    entry(5, 0.0, 0.979, lr_max1=0.6, collapsed=True),
    dataclasses.replace(entry(6, 0.0, 0.98, lr_max1=0.7), state="failed"),
]


def test_the_best_by_the_rule_are_retrained_with_three_fresh_seeds_each(tmp_path):
    asked = []
    answers = {rate: [measured(0.004, 0.975)] * 3 for rate in (0.1, 0.2, 0.4)}
    result = confirm(RECORDS, space=SPACE, gate=GATE, seed=11, folder=tmp_path, map_jobs=jobs_giving(answers, asked))
    assert [c.number for c in result.confirmed] == [1, 3, 0], "by the larger of bound / limit, smallest first"
    assert len({job.seed for job in asked}) == 9
    assert {job.seed for job in asked}.isdisjoint(r.seed for r in RECORDS)
    assert asked[0].seed == derive(11, "confirm", 1, 0)
    assert asked[0].weights == tmp_path / "1" / "0" / "weights.safetensors"
    assert [job.defense.lr_max1 for job in asked] == [0.2] * 3 + [0.4] * 3 + [0.1] * 3


def test_a_failed_and_repeated_trial_changes_no_fresh_seed(tmp_path):
    """What a kill leaves: the first trial failed, its setting is tried again as another trial of the same seed."""
    lost = dataclasses.replace(RECORDS[0], state="failed")
    disturbed = [lost, *(dataclasses.replace(record, number=record.number + 1) for record in RECORDS)]
    answers = {rate: [measured(0.004, 0.975)] * 3 for rate in (0.1, 0.2, 0.4)}
    asked: dict[bool, list[Job]] = {}
    for calm, records in ((True, RECORDS), (False, disturbed)):
        jobs = jobs_giving(answers, asked.setdefault(calm, []))
        confirm(records, space=SPACE, gate=GATE, seed=11, folder=tmp_path, map_jobs=jobs)
    assert [(job.defense, job.seed) for job in asked[True]] == [(job.defense, job.seed) for job in asked[False]]


def test_among_seeds_of_equal_score_the_median_accuracy_ships(tmp_path):
    """Where no image obeys the trigger and accuracy rose, every score is the same, and one seed may be an accident."""
    answers = {0.2: [measured(0.0, 0.999), measured(0.0, 0.985), measured(0.0, 0.99)]}
    gate = dataclasses.replace(GATE, max_accuracy_drop=0.9)
    result = confirm(RECORDS[1:2], space=SPACE, gate=gate, seed=1, folder=tmp_path, map_jobs=jobs_giving(answers, []))
    assert len(set(result.winner.scores)) == 1
    assert result.winner.clean_accuracy[result.winner.shown].rate == 0.99


def test_the_best_mean_wins_and_the_median_seeds_weights_ship(tmp_path):
    answers = {
        0.2: [measured(0.002, 0.978), measured(0.04, 0.96), measured(0.04, 0.96)],
        0.4: [measured(0.012, 0.975), measured(0.004, 0.975), measured(0.008, 0.975)],
        0.1: [measured(0.03, 0.965)] * 3,
    }
    result = confirm(RECORDS, space=SPACE, gate=GATE, seed=0, folder=tmp_path, map_jobs=jobs_giving(answers, []))
    winner = result.winner
    assert winner.number == 3, "one lucky seed does not win"
    assert winner.shown == 2
    assert winner.weights[winner.shown] == tmp_path / "3" / "2" / "weights.safetensors"
    assert winner.attack_success_rate[winner.shown].rate == 0.008
    assert "trial 3" in result.why
    assert "3 fresh seeds" in result.why
    assert "5.00%" in result.why


@pytest.mark.parametrize(("last", "alike"), [(0.975, True), (0.97, False)])
def test_seeds_that_change_nothing_are_said_to_confirm_little(tmp_path, last, alike):
    answers = {0.2: [measured(0.002, 0.975), measured(0.002, 0.975), measured(0.002, last)]}
    result = confirm(RECORDS[1:2], space=SPACE, gate=GATE, seed=0, folder=tmp_path, map_jobs=jobs_giving(answers, []))
    assert ("All 3 seeds gave the same figures" in result.why) is alike


def test_a_winner_must_meet_the_gate_again(tmp_path):
    answers = {rate: [measured(0.2, 0.97)] * 3 for rate in (0.1, 0.2, 0.4)}
    result = confirm(RECORDS, space=SPACE, gate=GATE, seed=0, folder=tmp_path, map_jobs=jobs_giving(answers, []))
    assert result.winner is None
    assert len(result.confirmed) == 3
    assert "No setting met the gate again" in result.why


def test_a_seed_that_collapses_cannot_win(tmp_path):
    good = measured(0.004, 0.975)
    answers = {
        0.2: [good, measured(0.0, 0.979, collapsed=True), good],
        0.4: [measured(0.01, 0.973)] * 3,
        0.1: [measured(0.01, 0.97)] * 3,
    }
    result = confirm(RECORDS, space=SPACE, gate=GATE, seed=0, folder=tmp_path, map_jobs=jobs_giving(answers, []))
    assert result.winner.number == 3


def test_a_training_that_fails_is_an_error_not_a_verdict(tmp_path):
    answers = {rate: [measured(0.004, 0.975)] * 2 + [Outcome.failed("no memory")] for rate in (0.1, 0.2, 0.4)}
    with pytest.raises(RuntimeError, match="no memory"):
        confirm(RECORDS, space=SPACE, gate=GATE, seed=0, folder=tmp_path, map_jobs=jobs_giving(answers, []))


def test_nothing_feasible_shows_the_nearest_points_and_what_to_widen(tmp_path):
    records = [entry(n, 0.1 + n / 10, 0.97, lr_max1=1.3 + n / 20, epochs=2) for n in range(4)]
    result = confirm(records, space=SPACE, gate=GATE, seed=0, folder=tmp_path, map_jobs=lambda jobs: 1 / 0)
    assert result.winner is None
    assert result.why.index("trial 0:") < result.why.index("trial 1:") < result.why.index("trial 2:")
    assert "trial 3" not in result.why
    assert "ASR 10.00%" in result.why
    assert "lr_max1: 3 of 3 lie at its edge; go above 1.5" in result.why
    assert "epochs:" not in result.why


def test_inside_the_space_more_trials_are_advised_before_a_wider_one():
    records = [entry(n, 0.3, 0.97, lr_max1=0.2, lr_max2=0.02, lr_base=1e-3, phase1_share=0.4) for n in range(3)]
    assert "--trials +N" in nothing_feasible(records, space=SPACE, gate=GATE)


def test_too_small_a_selection_is_named_as_the_reason():
    strict = dataclasses.replace(GATE, max_attack_success_rate=0.001)
    told = nothing_feasible([entry(0, 0.0, 0.98)], space=SPACE, gate=strict)
    assert "selection split is too small" in told
    assert "500 images" in told


def test_a_search_of_wrecks_is_told_to_lower_its_rates():
    told = nothing_feasible([entry(0, 0.0, 0.1, collapsed=True)], space=SPACE, gate=GATE)
    assert "lower the learning rates" in told
