import math
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raybd.evaluation.intervals import Rate, paired_difference, spread
from raybd.registry import BadInput

count = st.integers(0, 60)


@pytest.mark.parametrize("n", [1, 2, 10, 97, 4000])
def test_rate_has_the_wilson_interval_of_scipy(n: int) -> None:
    for hits in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        ours = Rate.of(hits, n)
        theirs = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert (ours.rate, ours.n) == (hits / n, n)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(1, 10_000), st.data())
def test_a_wilson_interval_holds_its_rate_and_stays_within_0_and_1(n: int, data: st.DataObject) -> None:
    rate = Rate.of(data.draw(st.integers(0, n)), n)
    assert 0 <= rate.low <= rate.rate <= rate.high <= 1
    assert rate.low < rate.high


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (1, 0), (3, 2), (-1, 2)])
def test_a_rate_of_nothing_or_of_more_than_all_is_refused(hits: int, n: int) -> None:
    with pytest.raises(BadInput):
        Rate.of(hits, n)


@pytest.mark.parametrize(
    ("table", "value", "low", "high"),
    [
        # Fagerland, Lydersen, Laake, "Recommended tests and confidence intervals for paired binomial
        # proportions", Statistics in Medicine 33 (2014): the data of Bentur et al. (2009).
        ((1, 1, 7, 12), -0.286, -0.507, -0.026),
        # Altman et al., "Statistics with confidence", 2nd ed. (2000), table 6.2.
        ((14, 5, 0, 22), 0.122, 0.011, 0.226),
    ],
)
def test_paired_difference_gives_the_published_intervals(
    table: tuple[int, int, int, int], value: float, low: float, high: float
) -> None:
    both, lost, won, neither = table
    ours = paired_difference(both=both, lost=lost, won=won, neither=neither)
    assert (ours.value, ours.low, ours.high) == pytest.approx((value, low, high), abs=5e-4)


@given(count, count, count, count)
def test_paired_difference_turns_round_with_its_two_sides(both: int, lost: int, won: int, neither: int) -> None:
    if both + lost + won + neither == 0:
        return
    there = paired_difference(both=both, lost=lost, won=won, neither=neither)
    back = paired_difference(both=both, lost=won, won=lost, neither=neither)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-12)
    # Counting the wrong answers instead of the right ones turns it round too.
    wrong = paired_difference(both=neither, lost=won, won=lost, neither=both)
    assert (wrong.low, wrong.high) == pytest.approx((-there.high, -there.low), abs=1e-12)


@given(count, count, count, count)
def test_paired_difference_always_has_a_width_and_stays_within_1(both: int, lost: int, won: int, neither: int) -> None:
    n = both + lost + won + neither
    if n == 0:
        return
    d = paired_difference(both=both, lost=lost, won=won, neither=neither)
    assert -1 <= d.low <= d.value <= d.high <= 1
    assert d.n == n
    assert d.high - d.low > 0.5 / n


def test_no_change_at_all_is_still_uncertain_by_a_few_images() -> None:
    for right in (0, 50, 90, 99, 100):
        d = paired_difference(both=right, lost=0, won=0, neither=100 - right)
        assert d.value == 0
        assert d.high > 0.015
        assert d.low < -0.015


def test_pairing_narrows_the_interval() -> None:
    paired = paired_difference(both=880, lost=20, won=0, neither=100)
    unpaired = paired_difference(both=792, lost=108, won=88, neither=12)  # the same rates, independent
    assert paired.value == unpaired.value
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize(
    ("n", "both", "lost", "won"),
    [(20, 0.6, 0.2, 0.1), (50, 0.9, 0.05, 0.02), (50, 0.7, 0.05, 0.05), (100, 0.95, 0.03, 0.0), (30, 0.3, 0.3, 0.1)],
)
def test_paired_difference_covers_the_truth_95_times_in_100(n: int, both: float, lost: float, won: float) -> None:
    draws = np.random.default_rng(0).multinomial(n, [both, lost, won, 1 - both - lost - won], size=4000)
    truth = lost - won
    covered = 0
    for b, x, w, u in draws.tolist():
        d = paired_difference(both=b, lost=x, won=w, neither=u)
        covered += d.low <= truth <= d.high
    # Newcombe reports a mean coverage of 0.949 with a least one of 0.86 over all his parameter zones.
    assert 0.93 <= covered / len(draws) <= 0.995


def test_paired_difference_of_no_image_is_refused() -> None:
    with pytest.raises(BadInput):
        paired_difference(both=0, lost=0, won=0, neither=0)


def test_spread_is_the_sample_deviation() -> None:
    rates = [0.9, 0.95, 0.97]
    s = spread(rates)
    assert (s.mean, s.sd, s.seeds) == pytest.approx((sum(rates) / 3, stdev(rates), 3))
    assert spread([0.5]).sd == 0
    assert not math.isnan(spread([0.5]).mean)
    with pytest.raises(BadInput):
        spread([])
