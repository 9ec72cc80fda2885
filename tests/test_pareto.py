import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from raybd.pareto import front, hypervolume, ranks

# A coarse grid, so that ties and equal points are common.
coordinate = st.integers(0, 6).map(lambda k: k / 6)
pairs = st.lists(st.tuples(coordinate, coordinate), max_size=30)
triples = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=30)


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(st.one_of(pairs, triples))
def test_front_is_every_point_that_no_other_dominates(points: list[tuple[float, ...]]) -> None:
    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert front(points) == expected


def test_front_keeps_equal_points_and_infinite_ones_and_drops_nan() -> None:
    assert front([(0.5, 0.5), (0.5, 0.5), (1.0, 1.0)]) == [0, 1]
    assert front([(math.nan, 0.0), (0.2, 0.2)]) == [1]
    assert front([(math.inf, 0.0), (0.0, 1.0)]) == [0, 1]
    assert front([(math.nan, math.nan)]) == []
    assert front([]) == []


@settings(max_examples=200)
@given(pairs, st.tuples(coordinate, coordinate))
def test_hypervolume_equals_optunas(points: list[tuple[float, float]], reference: tuple[float, float]) -> None:
    inside = np.array([p for p in points if p[0] <= reference[0] and p[1] <= reference[1]]).reshape(-1, 2)
    expected = compute_hypervolume(inside, np.array(reference)) if len(inside) else 0.0
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)


def test_hypervolume_ignores_nan_and_what_lies_beyond_the_reference() -> None:
    assert hypervolume([(0.5, 0.5), (math.nan, 0.0), (0.0, math.nan), (2.0, 0.0)], (1.0, 1.0)) == 0.25
    assert hypervolume([], (1.0, 1.0)) == 0.0


def test_thousands_of_points_take_a_moment_even_if_all_are_on_the_front() -> None:
    x = np.linspace(0, 1, 4000)
    points = np.stack([x, 1 - x], axis=1).tolist()
    start = time.process_time()
    assert len(front(points)) == 4000
    assert hypervolume(points, (1.0, 1.0)) == pytest.approx(0.5, abs=1e-3)
    assert time.process_time() - start < 2


def test_a_rank_is_the_number_of_fronts_before_and_nan_comes_last() -> None:
    points = [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (2.0, 2.0), (math.nan, 0.0), (1.0, 1.0)]
    assert ranks(points) == [0, 0, 1, 2, 6, 1]
    assert ranks([]) == []


@settings(max_examples=100)
@given(pairs)
def test_nobody_is_dominated_by_its_own_rank_or_a_later_one(points: list[tuple[float, float]]) -> None:
    found = ranks(points)
    for (x, y), rank in zip(points, found, strict=True):
        better = [r for (u, v), r in zip(points, found, strict=True) if u <= x and v <= y and (u, v) != (x, y)]
        assert all(r < rank for r in better)
        assert rank == 0 or rank - 1 in found
