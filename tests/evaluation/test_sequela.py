"""Membership is compared on the same images, a collapsed model has no reading, and all of it goes to JSON."""

import json

import pytest
import torch

from raybd.evaluation.membership_inference import auc_rise, loss_threshold
from raybd.evaluation.metrics import Rate
from raybd.evaluation.sequela import POISONED_SAMPLES, Membership, Reinjection, Sequela, compare_membership
from raybd.registry import BadInput, as_json, revive

NAMES = ("suspect", "fine_tuning", "candidate")


def drawn(n: int, seed: int) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return {name: torch.rand(n, generator=stream, dtype=torch.float64) for name in NAMES}


INSIDE, OUTSIDE = drawn(40, 0), drawn(60, 1)


def test_every_model_is_read_and_the_rise_is_paired() -> None:
    done = compare_membership(INSIDE, OUTSIDE, collapsed=[], against="suspect", members_are="some images")
    assert done.rows == {name: loss_threshold(INSIDE[name], OUTSIDE[name]) for name in NAMES}
    expected = auc_rise(INSIDE["suspect"], OUTSIDE["suspect"], INSIDE["candidate"], OUTSIDE["candidate"])
    assert done.rise == expected
    assert (done.members_are, done.members, done.non_members) == ("some images", 40, 60)
    assert done.compared == "candidate minus suspect"


@pytest.mark.parametrize(
    ("collapsed", "has_rise"), [(["fine_tuning"], True), (["candidate"], False), (["suspect"], False)]
)
def test_a_collapsed_model_has_neither_reading_nor_rise(collapsed: list[str], has_rise: bool) -> None:
    done = compare_membership(INSIDE, OUTSIDE, collapsed=collapsed, against="suspect", members_are="")
    assert [name for name, row in done.rows.items() if row is None] == collapsed
    assert (done.rise is not None) is has_rise


def test_a_model_that_collapsed_may_have_losses_nothing_can_be_read_from() -> None:
    wrecked = {**INSIDE, "fine_tuning": torch.full((40,), torch.nan, dtype=torch.float64)}
    done = compare_membership(wrecked, OUTSIDE, collapsed=["fine_tuning"], against="suspect", members_are="")
    assert done.rows["fine_tuning"] is None


@pytest.mark.parametrize("missing", ["candidate", "suspect"])
def test_both_sides_of_the_comparison_are_needed(missing: str) -> None:
    inside = {name: losses for name, losses in INSIDE.items() if name != missing}
    with pytest.raises(BadInput, match="losses of 'candidate' and 'suspect' are needed"):
        compare_membership(inside, OUTSIDE, collapsed=[], against="suspect", members_are="")


def test_re_injection_has_a_control() -> None:
    assert POISONED_SAMPLES == (0, 1, 5, 20, 100)


def test_a_sequela_goes_to_json_and_back() -> None:
    reading = compare_membership(INSIDE, OUTSIDE, collapsed=["fine_tuning"], against="suspect", members_are="x")
    curves = Reinjection(
        poisoned_samples=(0, 1), steps=50, lr=0.01, batch_size=32, curves={"suspect": (Rate.of(1, 9), None)}
    )
    for sequela in (
        Sequela(membership=Membership(suspect_members=reading, trained_on=None), reinjection=curves),
        Sequela(membership=Membership(suspect_members=None, trained_on=reading), reinjection=None),
    ):
        assert revive(Sequela, json.loads(json.dumps(as_json(sequela)))) == sequela
