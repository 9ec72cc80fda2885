"""Rates as functions of the step, checked against values computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybd.schedules import constant, cosine, super_fine_tuning, triangular, whole_cycles


def test_constant_and_cosine() -> None:
    assert [constant(0.1)(s) for s in (0, 99)] == [0.1, 0.1]
    rate = cosine(0.2, 100)
    assert [rate(s) for s in (0, 50, 100, 150)] == pytest.approx([0.2, 0.1, 0, 0])
    assert rate(25) == pytest.approx(0.1 * (1 + math.sqrt(0.5)))


def test_a_triangle_has_its_own_ramps_up_and_down() -> None:
    rate = triangular(1.0, 5.0, 4, 2)
    assert [rate(s) for s in range(8)] == [1, 2, 3, 4, 5, 3, 1, 2]


def test_a_peak_may_lie_below_the_base() -> None:
    assert [triangular(1.0, 0.5, 1, 1)(s) for s in range(3)] == [1, 0.5, 1]


def test_super_fine_tuning_at_start_peaks_troughs_phase_change_and_end() -> None:
    rate = super_fine_tuning(3e-4, 0.1, 1e-3, 10, 10, 40)
    assert rate(0) == 3e-4
    assert rate(5) == pytest.approx((3e-4 + 0.1) / 2)
    assert [rate(s) for s in (10, 30)] == pytest.approx([0.1, 0.1])
    assert rate(20) == pytest.approx(3e-4)
    assert rate(39) == pytest.approx(3e-4 + (0.1 - 3e-4) / 10)  # the last step of phase 1 is on its ramp down
    assert rate(40) == pytest.approx(3e-4)  # the change lies at a trough
    assert rate(41) == pytest.approx(3e-4 + (1e-3 - 3e-4) / 10)
    assert [rate(s) for s in (50, 70)] == pytest.approx([1e-3, 1e-3])
    assert rate(79) == pytest.approx(3e-4 + (1e-3 - 3e-4) / 10)  # a run of whole cycles ends next to the base


@pytest.mark.parametrize(
    ("steps", "share", "cycle", "expected"),
    [
        (1600, 0.4, 20, (640, 1600)),  # backdoor-toolbox: 2,000 images, 16 steps an epoch, 32 + 48 cycles
        (1601, 0.4, 20, (660, 1620)),
        (1, 0.5, 20, (20, 40)),
        (60, 0.01, 20, (20, 60)),
        (60, 0.99, 20, (40, 60)),
        (60, 1 / 3, 20, (20, 60)),
        (200, 0.3, 20, (60, 200)),  # 0.3 * 10 is 3.0000000000000004 in floats elsewhere: no fourth cycle
    ],
)
def test_phases_last_whole_cycles(steps: int, share: float, cycle: int, expected: tuple[int, int]) -> None:
    assert whole_cycles(steps, share, cycle) == expected


@given(st.integers(1, 5000), st.floats(0.001, 0.999), st.integers(2, 60))
def test_every_run_has_a_cycle_in_each_phase_and_is_no_more_than_a_cycle_longer(
    steps: int, share: float, cycle: int
) -> None:
    phase1, total = whole_cycles(steps, share, cycle)
    assert phase1 % cycle == total % cycle == 0
    assert cycle <= phase1 <= total - cycle
    assert steps <= total < max(steps + cycle, 2 * cycle + 1)
    assert abs(phase1 - share * total) <= cycle
