"""The sentences at the top claim no more than the intervals do."""

from dataclasses import replace
from typing import Any

import pytest

from raybd.evaluation.metrics import Rate
from raybd.registry import as_json
from raybd.report import ReportInput
from raybd.report.verdict import accuracy_sentence, trigger_sentence, trust, verdict, warnings


def rate(hits: int, n: int) -> dict[str, Any]:
    return as_json(Rate.of(hits, n))


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (rate(990, 1000), rate(10, 1000), "The whole interval lies within the limit of 5.0 %."),
        (rate(990, 1000), rate(45, 1000), "is not shown"),  # the point is under 5 %, the bound over it
        (rate(990, 1000), rate(300, 1000), "the backdoor still works"),
        (rate(990, 1000), rate(985, 1000), "no effect on the backdoor is shown"),
        (rate(5, 10), rate(2, 10), "no effect on the backdoor is shown"),  # far lower, but ten images say nothing
        (rate(500, 1000), rate(700, 1000), "obeys the trigger more than the suspect did"),
    ],
)
def test_the_sentence_claims_no_more_than_the_intervals(before: Any, after: Any, says: str) -> None:
    sentence = trigger_sentence(before, after, 0.05)

    assert says in sentence
    assert "removed" not in sentence


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.008, 0.02, "a loss of"), (-0.02, -0.008, "a gain"), (-0.004, 0.006, "none is ruled out")],
)
def test_a_difference_that_straddles_zero_is_neither_loss_nor_gain(low: float, high: float, says: str) -> None:
    drop = {"value": (low + high) / 2, "low": low, "high": high, "n": 4000}

    assert says in accuracy_sentence({"clean_accuracy": rate(960, 1000), "accuracy_drop": drop})


def test_a_promotion_names_version_and_alias(run: ReportInput) -> None:
    said = verdict(run)

    assert (said.word, said.tone) == ("Promoted", "good")
    assert "gtsrb-classifier version 3" in said.sentence
    assert "“candidate”" in said.sentence


@pytest.mark.parametrize("hits", [50, 60, 20])  # as often as the candidate, a little more, less: all within 5 %
def test_a_trigger_that_never_worked_gets_no_green_verdict(run: ReportInput, hits: int) -> None:
    assert run.assessment is not None
    suspect = {**run.assessment["suspect"], "attack_success_rate": rate(hits, 3880)}
    idle = replace(run, assessment={**run.assessment, "suspect": suspect})

    for said in (verdict(idle), verdict(replace(idle, promotion=None))):
        assert said.tone == "open"
        assert "nothing shows that there was a backdoor to remove" in said.sentence
    assert verdict(idle).word == "Promoted, no effect shown"
    assert "nothing shows" not in verdict(run).sentence


def test_a_promotion_without_its_assessment_is_not_green(run: ReportInput, without: Any) -> None:
    said = verdict(without(run, "assessment"))

    assert said.tone == "open"
    assert "every limit" not in said.sentence


def test_a_promotion_that_was_taken_back_says_so(run: ReportInput) -> None:
    assert run.promotion is not None
    said = verdict(replace(run, promotion={**run.promotion, "rolled_back_to": "2"}))

    assert (said.word, said.tone) == ("Rolled back", "bad")
    assert "alias “candidate” was moved to version 2" in said.sentence
    assert "now answers" not in said.sentence


def test_a_limit_that_nothing_was_judged_by_is_not_met(run: ReportInput) -> None:
    assert run.assessment is not None
    said = verdict(replace(run, promotion=None, assessment={**run.assessment, "checks": []}))

    assert said.word == "Would be refused"
    assert "attack success rate" in said.sentence


def test_a_refusal_names_each_limit_and_keeps_reasons_that_are_no_check(run: ReportInput) -> None:
    assert run.assessment is not None
    first, *rest = run.assessment["checks"]
    checks = [{**first, "status": "undecided"}, *rest]
    refusals = [first["detail"], "the registry already holds newer weights"]
    said = verdict(
        replace(
            run,
            assessment={**run.assessment, "checks": checks},
            promotion={"name": "m", "version": None, "alias": "a", "promoted": False, "refusals": refusals},
        )
    )

    assert said.tone == "bad"
    assert "attack success rate (undecided); the registry already holds newer weights" in said.sentence


def test_an_assessment_over_a_limit_is_no_success_before_promotion(run: ReportInput) -> None:
    assert run.assessment is not None
    first, *rest = run.assessment["checks"]
    cut = replace(run, promotion=None, assessment={**run.assessment, "checks": [{**first, "status": "failed"}, *rest]})

    assert verdict(cut).word == "Would be refused"


@pytest.mark.parametrize(("word", "oracle"), [("planted", True), ("given", True), ("canary", False), ("none", False)])
def test_knowledge_of_the_trigger_is_called_an_oracle_where_it_is_one(
    run: ReportInput, word: str, oracle: bool
) -> None:
    said = trust(replace(run, suspect_card={**run.suspect_card, "trigger_knowledge": word}))

    assert said["oracle"] is oracle
    assert ("This is an oracle" in said["meaning"]) is oracle


def test_a_page_without_a_search_does_not_claim_that_trials_were_measured(run: ReportInput) -> None:
    assert "every trial" not in str(trust(replace(run, study=None)))


def test_what_weakens_the_figures_is_warned_of(run: ReportInput) -> None:
    assert run.assessment is not None
    selected = {**run.assessment["selected"], "collapsed": True}
    checks = [{**c, "status": "undecided"} for c in run.assessment["checks"]]
    weak = {**run.assessment, "selected": selected, "checks": checks, "test_looks": 3}
    found = " ".join(warnings(replace(run, assessment=weak)))

    for expected in ("exact copies", "looked at 3 times", "collapsed model", "Too few samples"):
        assert expected in found
