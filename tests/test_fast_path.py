"""What the comparison of precisions rests on, and a smaller one of its own."""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.fast_path import LIMITS, difference, measure, own_spread, paired
from tests.benchmarks.record_hopeless import planted


def run_of(accuracy: float, collapsed: bool = False) -> dict[str, Any]:
    return {"clean_accuracy": accuracy, "attack_success_rate": 0.5, "collapsed": collapsed}


def runs_of(accuracies: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """Runs by setting and seed, from their accuracies in (fp32, bf16)."""
    pairs = {f"{i}/{s}": pair for i, seeds in enumerate(accuracies) for s, pair in enumerate(seeds)}
    return {f"{k}/{p}": run_of(v) for k, pair in pairs.items() for p, v in zip(("fp32", "bf16"), pair, strict=True)}


def test_a_shift_beyond_the_limit_is_not_called_equivalent() -> None:
    steady = paired(runs_of([[(0.90, 0.901)], [(0.80, 0.799)], [(0.95, 0.951)], [(0.97, 0.969)]]), 4, 1)
    shifted = paired(runs_of([[(0.90, 0.881)], [(0.80, 0.779)], [(0.95, 0.931)], [(0.97, 0.949)]]), 4, 1)
    even, apart = difference(steady, "clean_accuracy"), difference(shifted, "clean_accuracy")
    assert even is not None
    assert even["equivalent"]
    assert abs(even["mean"]) < 1e-9
    assert apart is not None
    assert not apart["equivalent"]
    assert apart["mean"] == pytest.approx(-0.02)


def test_a_pair_of_which_one_collapsed_is_left_out() -> None:
    runs = runs_of([[(0.9, 0.9)], [(0.9, 0.9)], [(0.9, 0.1)]])
    runs["2/0/bf16"]["collapsed"] = True
    found = difference(paired(runs, 3, 1), "clean_accuracy")
    assert found is not None
    assert found["mean"] == 0
    assert found["settings"] == 2


def test_the_spread_is_over_seeds_not_over_settings() -> None:
    pairs = paired(runs_of([[(0.90, 0.9), (0.92, 0.9)], [(0.10, 0.1), (0.12, 0.1)]]), 2, 2)
    assert own_spread(pairs, "clean_accuracy") == pytest.approx(0.02 / 2**0.5)


@pytest.mark.slow
def test_bf16_gives_the_figures_of_fp32(tmp_path: Path) -> None:
    """Six settings and two seeds cannot show equivalence, but would show a shift beyond the limits."""
    path = tmp_path / "fast_path.json"
    document = measure("demo", *planted("demo"), n=6, seeds=2, path=path)
    assert document["compared"] >= 8
    for rate, limit in LIMITS.items():
        found = document["difference"][rate]
        assert found["low"] <= limit, (rate, found)
        assert found["high"] >= -limit, (rate, found)
    before = path.read_bytes()
    measure("demo", *planted("demo"), n=6, seeds=2, path=path)
    assert path.read_bytes() == before, "what was measured is not measured again"
