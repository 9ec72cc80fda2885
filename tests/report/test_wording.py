"""Numbers and names as a reader sees them."""

from typing import Any

import pytest

from raybd.report.wording import MINUS, NBSP, decimal, name_of, plain, points, seconds, setting, short, with_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.0, "0.0"), (-0.04, "0.0"), (-1.26, f"{MINUS}1.3"), (12345.6, "12,345.6"), (None, "\u2013")],
)
def test_numbers_have_no_negative_zero_and_a_true_minus(value: float | None, text: str) -> None:
    assert decimal(value) == text


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0.421, "0.42 s"), (12.3, "12.3 s"), (119.9, "119.9 s"), (250, "4 min 10 s"), (7500, "2 h 05 min")],
)
def test_durations_are_in_the_unit_of_their_size(duration: float, text: str) -> None:
    assert seconds(duration) == text


def test_a_rate_never_stands_without_its_interval() -> None:
    rate = {"rate": 0.979, "n": 4000, "low": 0.974, "high": 0.983}

    assert plain(with_interval(rate)) == "97.9 % [97.4, 98.3]"
    assert NBSP in with_interval(rate)  # an interval is not torn at the end of a line
    assert plain(points({"value": -0.002, "low": -0.008, "high": 0.004, "n": 9})) == "-0.2 [-0.8, 0.4]"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-4, "0.0003"), (True, "yes"), ([1, 2], "1, 2"), ({"kind": "patch", "size": 4}, "patch · size 4"), (7, "7")],
)
def test_any_fact_becomes_short_text(value: Any, text: str) -> None:
    assert short(value) == text


def test_settings_and_names_read_as_words() -> None:
    assert setting({"kind": "fine_tuning", "lr": 0.01}) == "fine_tuning · lr 0.01"
    assert name_of("fine_tuning:head") == "fine-tuning, head only"
    assert name_of("super_fine_tuning:toolbox_gtsrb") == "super-fine-tuning, toolbox_gtsrb values"
    assert name_of("max_attack_success_rate") == "attack success rate"
    assert name_of("torch_build") == "torch build"
