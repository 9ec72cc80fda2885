"""What the growth measurement rests on: exponents, ratios and steady rates are computed right, and its parts run."""

from pathlib import Path

import pytest

from raybd.registry import read_json
from raybd.search.samplers import SAMPLERS, SUCCESSORS
from tests.benchmarks import growth
from tests.benchmarks.growth_fits import growth as exponent_of
from tests.benchmarks.growth_fits import memory_ratio, own_cost, power_law, shown, table
from tests.benchmarks.growth_search import steady
from tests.benchmarks.growth_sizes import FULL, TINY


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_found_exactly(exponent: float) -> None:
    xs = [1.0, 3.0, 10.0, 200.0]
    fit = power_law(xs, [7 * x**exponent for x in xs])
    assert fit["exponent"] == pytest.approx(exponent, abs=1e-9)
    assert fit["factor"] == pytest.approx(7)
    assert fit["standard_error"] == pytest.approx(0, abs=1e-9)


def test_the_standard_error_is_that_of_a_straight_line_through_the_logarithms() -> None:
    e = 2.718281828459045
    fit = power_law([1, e, e**2], [1, e**2, e])  # the points (0, 0), (1, 2), (2, 1): slope 1/2, residuals of 3/2
    assert fit["exponent"] == pytest.approx(0.5)
    assert fit["standard_error"] == pytest.approx((1.5 / 1 / 2) ** 0.5)
    assert power_law([1, 2], [3, 6])["standard_error"] is None


@pytest.mark.parametrize(("xs", "ys"), [([1, 1], [1, 2]), ([1], [1]), ([1, 2], [0, 1]), ([-1, 2], [1, 1])])
def test_what_has_no_power_law_is_refused(xs: list[float], ys: list[float]) -> None:
    with pytest.raises(ValueError, match="power law"):
        power_law(xs, ys)


def test_rows_without_a_logarithm_are_left_out() -> None:
    rows = [{"x": 1.0, "y": -0.1}, {"x": 2.0, "y": 1.0}, {"x": 4.0, "y": 4.0}]
    fit = exponent_of(rows, "x", "y")
    assert fit is not None
    assert (fit["exponent"], fit["points"]) == (pytest.approx(2), 2)
    assert exponent_of(rows[:2], "x", "y") is None
    assert "no exponent" in shown(None)


def test_a_samplers_own_cost_is_beyond_that_of_random() -> None:
    floor = [{"trials": 10, "seconds": 1.0}, {"trials": 30, "seconds": 2.0}]
    rows = own_cost([{"trials": 10, "seconds": 1.5}, {"trials": 99, "seconds": 9.0}], floor)
    assert rows == [{"trials": 10, "seconds": 1.5, "own_seconds": 0.5}]


def test_memory_is_compared_at_the_two_counts() -> None:
    rows = [{"trials": 500, "bytes": 100}, {"trials": 1000, "bytes": 300}, {"trials": 2000, "bytes": 115}]
    assert memory_ratio(rows, early=500, late=2000) == 1.15
    assert memory_ratio(rows[:2], early=500, late=2000) is None


def test_steady_leaves_out_the_start_of_the_workers_and_the_tail() -> None:
    ends = [(1.0, "a"), (2.0, "a"), (20.0, "b"), (21.0, "a"), (22.0, "b"), (23.0, "a"), (24.0, "b"), (50.0, "a")]
    assert steady(ends, slots=2) == 1.0  # from 20 s, when both were there, to 23 s
    assert steady([(0.0, "a"), (3.0, "a"), (4.0, "a")], slots=2) == 2.0
    assert steady([(5.0, "a")], slots=1) == 0.0


def test_memory_is_measured_at_the_ends_of_segments() -> None:
    for sizes in (FULL, TINY):
        early, late = sizes.memory
        assert late % early == 0


def test_the_cheap_parts_run_and_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    results = tmp_path / "growth.json"
    names = ["model", "clean_set"]
    found = growth.take(names, TINY, results)
    (model,) = found["parts"]["model"]["series"].values()
    assert [row["width"] for row in model["rows"]] == list(TINY.widths)
    assert model["fits"]["seconds in flop"]["points"] == len(TINY.widths)
    assert model["rows"][0]["parameters"] < model["rows"][-1]["parameters"]
    assert growth.take(names, TINY, results) == found == read_json(results)
    assert any("exponent" in line for line in table("model", found["parts"]["model"]))


def test_every_sampler_is_measured_alone_and_with_its_successor(tmp_path: Path) -> None:
    part = growth.measured("sampler", TINY)
    assert set(part["series"]) == {*SAMPLERS, *(f"{name}, handed over" for name in SUCCESSORS)}
    assert part["takeovers"]["gp"]["name"] == SUCCESSORS["gp"].name
    for series in part["series"].values():
        assert [row["trials"] for row in series["rows"]] == list(TINY.asks)
        assert all(row["seconds"] > 0 for row in series["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trials", "workers", "cluster", "memory"])
def test_the_parts_on_ray_run(name: str, tmp_path: Path) -> None:
    part = growth.take([name], TINY, tmp_path / "growth.json")["parts"][name]
    (series,) = part["series"].values()
    points = {"trials": TINY.trials, "workers": TINY.workers, "cluster": TINY.slots, "memory": TINY.memory}[name]
    assert len(series["rows"]) == len(points)
    assert all(value > 0 for row in series["rows"] for value in row.values())
