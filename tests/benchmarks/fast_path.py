"""Whether bf16 changes the figures: the same settings and seeds in bf16 and in plain fp32, and fp32's own spread.

    python -m tests.benchmarks.fast_path demo
    python -m tests.benchmarks.fast_path third_party --data DATA_FOLDER

Settings come from a Sobol sequence over the suspect's space. Pairs of which one collapsed are set apart and counted.
The paths are equivalent when the 95 % interval of the mean paired difference lies within 1 point of C-Acc and 3 points
of ASR; it is taken over the settings' means, because the seeds of one setting are not independent. Each training is
written down as it ends, so an interrupted measurement goes on.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scipy import stats

from raybd.registry import read_json, write_json
from raybd.search.trial import run_trial
from raybd.search.view import SearchView
from raybd.seeds import derive
from raybd.settings import StudySettings
from raybd.stages.run_folder import environment
from tests.benchmarks.record_hopeless import planted, third_partys
from tests.benchmarks.record_trials import SUSPECTS, settings_over

RESULTS = Path(__file__).parent / "results"
PRECISIONS = ("fp32", "bf16")
LIMITS = {"clean_accuracy": 0.01, "attack_success_rate": 0.03}
"""How far the mean difference may lie from zero, bound included."""
SHOWN = ("pairs", "collapsed_in_one", "collapsed_in_both", "compared", "difference", "spread_of_fp32")


def measure(suspect: str, settings: StudySettings, view: SearchView, n: int, seeds: int, path: Path) -> dict[str, Any]:
    """Run what an earlier measurement left out of the file at `path`, and return the whole result."""
    runs: dict[str, Any] = read_json(path)["runs"] if path.is_file() else {}
    space = settings.load_space()
    views = {p: replace(view, compute=replace(view.compute, precision=p)).on_device() for p in PRECISIONS}
    drawn = list(settings_over(space, n))
    for seed in range(seeds):  # outermost: what an interruption leaves is all settings with fewer seeds
        for i, setting in enumerate(drawn):
            for precision in PRECISIONS:
                key = f"{i}/{seed}/{precision}"
                if key not in runs:
                    outcome = run_trial(views[precision], space.build(setting), seed=derive(seed, "fast path", i))
                    runs[key] = _row(outcome)
                    write_json(path, _document(suspect, runs, n, seeds))
                    sys.stdout.write(f"{suspect} {key} {runs[key]}\n")
                    sys.stdout.flush()
    document = _document(suspect, runs, n, seeds)
    write_json(path, document)
    return document


def _row(outcome: Any) -> dict[str, Any]:
    if outcome.state == "failed":
        raise RuntimeError(outcome.error)
    return {
        "clean_accuracy": outcome.clean_accuracy.rate,
        "attack_success_rate": outcome.attack_success_rate.rate,
        "collapsed": outcome.collapsed,
    }


def _document(suspect: str, runs: dict[str, Any], n: int, seeds: int) -> dict[str, Any]:
    pairs = paired(runs, n, seeds)
    whole = [pair for pair in pairs.values() if not any(pair[p]["collapsed"] for p in PRECISIONS)]
    return {
        "suspect": suspect,
        "environment": environment(),
        "settings": n,
        "seeds": seeds,
        "pairs": len(pairs),
        "collapsed_in_one": sum(pair["fp32"]["collapsed"] != pair["bf16"]["collapsed"] for pair in pairs.values()),
        "collapsed_in_both": sum(all(pair[p]["collapsed"] for p in PRECISIONS) for pair in pairs.values()),
        "compared": len(whole),
        "difference": {rate: difference(pairs, rate) for rate in LIMITS},
        "spread_of_fp32": {rate: own_spread(pairs, rate) for rate in LIMITS},
        "runs": runs,
    }


def paired(runs: dict[str, Any], n: int, seeds: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Return, by setting and seed, the runs of both precisions where both are there."""
    every = {(i, s): {p: runs.get(f"{i}/{s}/{p}") for p in PRECISIONS} for i in range(n) for s in range(seeds)}
    return {key: pair for key, pair in every.items() if all(pair.values())}


def difference(pairs: dict[tuple[int, int], dict[str, Any]], rate: str) -> dict[str, Any] | None:
    """Return the mean of bf16 minus fp32 over the settings' means, with its 95 % interval, and the verdict."""
    by_setting: dict[int, list[float]] = {}
    for (i, _), pair in pairs.items():
        if not any(pair[p]["collapsed"] for p in PRECISIONS):
            by_setting.setdefault(i, []).append(pair["bf16"][rate] - pair["fp32"][rate])
    means = [statistics.mean(values) for values in by_setting.values()]
    if len(means) < 2:
        return None
    mean, half = statistics.mean(means), _half(means)
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "settings": len(means),
        "equivalent": max(abs(mean - half), abs(mean + half)) <= LIMITS[rate],
    }


def _half(values: Sequence[float]) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def own_spread(pairs: dict[tuple[int, int], dict[str, Any]], rate: str) -> float | None:
    """Return the standard deviation of fp32 over the seeds of one setting, pooled over the settings."""
    by_setting: dict[int, list[float]] = {}
    for (i, _), pair in pairs.items():
        if not pair["fp32"]["collapsed"]:
            by_setting.setdefault(i, []).append(pair["fp32"][rate])
    variances = [statistics.variance(values) for values in by_setting.values() if len(values) > 1]
    return statistics.mean(variances) ** 0.5 if variances else None


def main() -> None:
    """Measure one suspect and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspect", choices=[*SUSPECTS, "third_party"])
    parser.add_argument("--data", type=Path, help="the folder with the third party's model")
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        third = options.suspect == "third_party"
        study = third_partys(options.data, Path(scratch)) if third else planted(options.suspect)
        path = RESULTS / f"fast_path_{options.suspect}.json"
        document = measure(options.suspect, *study, options.settings, options.seeds, path)
    for key in SHOWN:
        sys.stdout.write(f"{key}: {document[key]}\n")


if __name__ == "__main__":
    main()
