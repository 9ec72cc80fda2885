"""SIG adds stripes to images of the target class, which keep their label."""

import math

import pytest
import torch

from raybd.attacks import Sig
from raybd.registry import BadInput
from raybd.triggers import Sinusoid


def test_its_fields_are_those_of_its_stripes() -> None:
    assert Sig(target_label=3, delta=20, frequency=5).trigger() == Sinusoid(target_label=3, delta=20, frequency=5)


@pytest.mark.parametrize("width", [16, 32])
def test_the_stripes_are_the_papers_formula_in_every_row_and_channel(width: int) -> None:
    grey = torch.full((1, 3, 5, width), 100, dtype=torch.uint8)
    wave = [round(40 * math.sin(2 * math.pi * column * 6 / width)) for column in range(width)]
    change = Sinusoid(target_label=0).apply(grey).int() - 100
    assert change.eq(torch.tensor(wave)).all()


def test_the_stripes_are_clipped_at_black_and_white() -> None:
    trigger = Sinusoid(target_label=0, delta=200, frequency=1)
    done = trigger.apply(torch.full((1, 1, 1, 4), 128, dtype=torch.uint8))
    assert done.flatten().tolist() == [128, 255, 128, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0}, "delta: expected above 0, at most 255, got 0"),
        ({"delta": 256}, "delta: expected above 0, at most 255, got 256"),
        ({"frequency": 0}, "frequency: expected at least 1 wave, got 0"),
    ],
)
def test_stripes_that_make_no_sense_are_refused_when_the_study_is_read(changes: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Sig(target_label=0, **changes)


def test_more_waves_than_the_image_can_show_are_refused() -> None:
    # At two pixels a wave every pixel falls on a zero: the trigger would do nothing.
    with pytest.raises(BadInput, match=r"trigger.frequency: 6 waves need images more than 12 pixels wide, got 12"):
        Sinusoid(target_label=0).check((1, 32, 12), 2)
