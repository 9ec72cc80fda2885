import math
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest

from raybd.evaluation.intervals import Difference, Rate, paired_difference
from raybd.gate import (
    Check,
    ClassDrop,
    Evidence,
    Gate,
    nearest,
    rank,
    refusals,
    score,
    smallest_bound,
)
from raybd.registry import BadInput

GATE = Gate(
    max_attack_success_rate=0.05,
    max_accuracy_drop=0.03,
    max_class_accuracy_drop=0.25,
    max_membership_auc_rise=0.03,
)


def rise(value: float, half: float = 0.01) -> Difference:
    return Difference(value=value, low=value - half, high=value + half, n=8000)


def drop(lost: int, n: int) -> Difference:
    """Everything right before, `lost` of `n` images wrong after."""
    return paired_difference(both=n - lost, lost=lost, won=0, neither=0)


GOOD = Evidence(
    attack_success_rate=Rate.of(40, 4000),
    accuracy_drop=drop(40, 4000),
    class_drops=(ClassDrop(label=3, drop=drop(2, 100)), ClassDrop(label=None, drop=drop(1, 80))),
    membership_auc_rise=rise(0.0),
)


def checks(evidence: Evidence, gate: Gate = GATE) -> dict[str, Check]:
    return {check.name: check for check in gate.judge(evidence)}


def test_the_gate_loads_without_torch() -> None:
    program = "import raybd.gate, raybd.pareto, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", ["max_attack_success_rate", "max_accuracy_drop", "max_class_accuracy_drop"])
@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_limits_outside_the_fractions_are_refused_by_name(name: str, limit: float) -> None:
    with pytest.raises(BadInput, match=name):
        replace(GATE, **{name: limit})


def test_only_the_membership_limit_may_be_left_out() -> None:
    assert "membership_auc_rise" not in checks(GOOD, replace(GATE, max_membership_auc_rise=None))
    with pytest.raises(BadInput, match="max_membership_auc_rise"):
        replace(GATE, max_membership_auc_rise=0.0)


def test_good_evidence_opens_the_gate() -> None:
    judged = GATE.judge(GOOD)
    assert [check.status for check in judged] == ["passed"] * 4
    assert refusals(judged) == ()


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("attack_success_rate", {"attack_success_rate": Rate.of(190, 4000)}),  # 4.75 %, bound 5.5 %
        ("accuracy_drop", {"accuracy_drop": drop(110, 4000)}),  # 2.75 %, bound 3.3 %
        ("class_accuracy_drop", {"class_drops": (ClassDrop(label=7, drop=drop(20, 100)),)}),  # bound 29 %
        ("membership_auc_rise", {"membership_auc_rise": rise(0.025)}),
    ],
)
def test_a_point_within_the_limit_whose_bound_is_over_it_fails_alone(name: str, worse: dict[str, Any]) -> None:
    judged = checks(replace(GOOD, **worse))
    assert judged[name].value is not None
    assert judged[name].value < judged[name].limit
    assert {n: c.status for n, c in judged.items() if c.status != "passed"} == {name: "failed"}


def test_a_refusal_names_limit_value_bound_and_n() -> None:
    (sentence,) = refusals(GATE.judge(replace(GOOD, attack_success_rate=Rate.of(190, 4000))))
    for part in ("max_attack_success_rate", "5.00%", "4.75%", "5.45%", "4000"):
        assert part in sentence


@pytest.mark.parametrize(
    ("name", "scarce"),
    [
        ("attack_success_rate", {"attack_success_rate": Rate.of(0, 40)}),
        ("attack_success_rate", {"attack_success_rate": Rate.of(1, 40)}),
        ("accuracy_drop", {"accuracy_drop": drop(0, 100)}),
        # 130 images would do at 100 % accuracy; with one image always wrong the perfect bound is over 3 %.
        ("accuracy_drop", {"accuracy_drop": paired_difference(both=129, lost=0, won=0, neither=1)}),
        ("class_accuracy_drop", {"class_drops": (ClassDrop(label=None, drop=drop(0, 5)),)}),
        ("class_accuracy_drop", {"class_drops": ()}),
        ("membership_auc_rise", {"membership_auc_rise": None}),
        ("membership_auc_rise", {"membership_auc_rise": rise(-0.001, half=0.05)}),
    ],
)
def test_too_little_evidence_is_undecided_and_refuses(name: str, scarce: dict[str, Any]) -> None:
    judged = checks(replace(GOOD, **scarce))
    assert judged[name].status == "undecided"
    assert len(refusals(tuple(judged.values()))) == 1


def test_few_images_that_are_all_hits_have_failed() -> None:
    assert checks(replace(GOOD, attack_success_rate=Rate.of(20, 20)))["attack_success_rate"].status == "failed"


@pytest.mark.parametrize("broken", ["value", "low", "high"])
def test_a_figure_that_is_not_a_number_never_passes(broken: str) -> None:
    nan = replace(rise(-0.5), **{broken: math.nan})
    evidence = Evidence(
        attack_success_rate=Rate(rate=0.0, n=4000, low=0.0, high=math.nan),
        accuracy_drop=nan,
        class_drops=(ClassDrop(label=0, drop=nan), *GOOD.class_drops),
        membership_auc_rise=nan,
    )
    for check in GATE.judge(evidence):
        assert check.status == "undecided"
        assert check.value is None
        assert check.bound is None


def test_the_worst_class_speaks_for_all_and_a_failure_before_a_doubt() -> None:
    drops = (
        ClassDrop(label=1, drop=drop(1, 100)),
        ClassDrop(label=2, drop=drop(40, 100)),
        ClassDrop(label=3, drop=drop(30, 100)),
        ClassDrop(label=None, drop=drop(0, 3)),
    )
    check = checks(replace(GOOD, class_drops=drops))["class_accuracy_drop"]
    assert (check.status, check.value, check.n) == ("failed", 0.4, 100)
    assert "class 2" in check.detail
    assert "3 classes" in check.detail


def test_a_passing_class_check_still_shows_the_worst_class() -> None:
    check = checks(GOOD)["class_accuracy_drop"]
    assert check.bound == max(one.drop.high for one in GOOD.class_drops)


def test_smallest_bound_is_that_of_no_hit_and_of_no_loss() -> None:
    assert smallest_bound(100) == Rate.of(0, 100).high
    assert smallest_bound(100) == pytest.approx(drop(0, 100).high)


@dataclass(frozen=True, kw_only=True)
class Point:
    number: int
    attack_success_rate: Rate | None
    accuracy_drop: Difference | None
    clean_accuracy: Rate | None


def point(number: int, asr_bound: float, drop_bound: float, accuracy: int = 900) -> Point:
    return Point(
        number=number,
        attack_success_rate=Rate(rate=0.0, n=1000, low=0.0, high=asr_bound),
        accuracy_drop=Difference(value=0.0, low=-1.0, high=drop_bound, n=1000),
        clean_accuracy=Rate.of(accuracy, 1000),
    )


def test_the_gate_opens_only_for_one_passed_check_of_each_limit() -> None:
    judged = GATE.judge(GOOD)
    assert GATE.verdict(judged) == ()
    assert [r.split()[0] for r in GATE.verdict(())] == [f"max_{check.name}" for check in judged]
    (missing,) = GATE.verdict(judged[1:])
    assert missing == "max_attack_success_rate is set, but no checks were made of attack_success_rate; expected one"
    (twice,) = GATE.verdict((*judged, judged[1]))
    assert twice.startswith("max_accuracy_drop is set, but 2 checks")
    assert GATE.verdict((replace(judged[0], status="undecided"), *judged[1:])) == (judged[0].detail,)


def test_the_gate_refuses_a_check_of_a_limit_that_is_not_set() -> None:
    lax = replace(GATE, max_membership_auc_rise=None)
    assert lax.verdict(lax.judge(GOOD)) == ()
    assert lax.verdict(GATE.judge(GOOD)) == ("membership_auc_rise was checked, but max_membership_auc_rise is not set",)


def numbers(points: list[Point]) -> list[int]:
    return [p.number for p in points]


def test_score_is_the_larger_share_of_its_limit() -> None:
    p = point(0, 0.01, 0.015)
    assert p.attack_success_rate is not None
    assert p.accuracy_drop is not None
    assert score(p.attack_success_rate, p.accuracy_drop, GATE) == pytest.approx(0.5)


def test_rank_prefers_the_point_far_from_every_limit() -> None:
    # 1 has the lowest ASR but sits on the edge of the drop; 2 is over a limit; 3 is inside of both.
    points = [point(1, 0.004, 0.0299), point(2, 0.0501, 0.0), point(3, 0.02, 0.01)]
    assert numbers(rank(points, GATE)) == [3, 1]


def test_rank_admits_a_bound_on_the_limit_itself() -> None:
    assert numbers(rank([point(1, 0.05, 0.03)], GATE)) == [1]


def test_ties_go_to_the_higher_clean_accuracy_then_to_the_earlier_point() -> None:
    points = [point(1, 0.02, 0.0, 900), point(2, 0.02, 0.001, 950), point(3, 0.02, 0.0, 950)]
    assert numbers(rank(points, GATE)) == [2, 3, 1]


def test_points_without_readings_or_with_nan_are_neither_ranked_nor_near() -> None:
    blank = Point(number=1, attack_success_rate=None, accuracy_drop=None, clean_accuracy=None)
    nans = [point(2, math.nan, 0.0), point(3, 0.0, math.nan)]
    assert rank([blank, *nans], GATE) == []
    assert nearest([blank, *nans], GATE) == []


def test_nearest_orders_what_does_not_meet_the_gate() -> None:
    points = [point(1, 0.5, 0.0), point(2, 0.06, 0.0), point(3, 0.0, 0.3), point(4, 0.07, 0.01)]
    assert rank(points, GATE) == []
    assert numbers(nearest(points, GATE, k=3)) == [2, 4, 1]


def test_a_class_limit_that_judged_one_pool_says_so_whatever_came_of_it() -> None:
    for lost, n in ((0, 300), (100, 300), (0, 5)):
        pooled = replace(GOOD, class_drops=(ClassDrop(label=None, drop=drop(lost, n)),))
        detail = checks(pooled)["class_accuracy_drop"].detail
        assert "no class has 50 test images, so all were judged as one" in detail
    assert "judged as one" not in checks(GOOD)["class_accuracy_drop"].detail
