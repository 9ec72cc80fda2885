"""Search quality: hypervolume against trials and against cost, for our search and others, on SURROGATES of real trials.

    python -m tests.benchmarks.search_quality --work FOLDER                  # every arm but GP, whose asks are slow
    python -m tests.benchmarks.search_quality --work FOLDER --arms gp

No model is trained here. A trial is a draw from a surrogate fitted to the recorded trials of its suspect (see
`record_trials` and `surrogate`, which also says how far off it is); the searches are real. Searches
that ended are kept in the work folder and read from there; the report holds the arms that are named, random, and
every other arm whose searches all lie in the work folder.

The question is how many of random search's trials another search needs. The target is the median over seeds of the
hypervolume that random search reaches with all its trials; a search needs as many trials as it takes to get there. A
stopped trial costs what it had cost by then, so cost is the second axis: image-steps, in units of a mean random trial.

Three hypervolumes, in (attack success rate, accuracy drop), of the trials that ran to their end and did not collapse:
`wide`: up to ten times both limits of the search. Ten times 5 % is the success rate above which a backdoor counts as
  kept (`raybd.search.hopeless`); the same factor on both axes favours neither.
`limits`: up to the limits themselves, so that only feasible trials count.
`expected`: as `wide`, of what the settings found give on average: a lucky seed does not count.

What a user gets is one candidate: the best of the `CONFIRMED` settings that looked furthest inside both limits, by what
they give on average, because fresh seeds confirm them. `candidate` is the larger of its figure / limit, 1 at a limit.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.pareto import hypervolume
from raybd.registry import write_json
from raybd.search.records import TrialRecord
from tests.benchmarks.quality_arms import ARMS, Bench, limits
from tests.benchmarks.record_trials import SUSPECTS, TABLES
from tests.benchmarks.surrogate import Surrogate, Table, errors

RESULTS = Path(__file__).parent / "results" / "search_quality.json"
BASELINE = "random"
WIDE = 10.0
SLOW = ("gp", "gp warm")
COSTS = (8, 16, 32, 64)
"""After the cost of so many random trials a search is asked for its candidate."""
CONFIRMED = 3
NOTHING = 9.0
"""Stands for a candidate where no trial ran to its end."""
ALL = "all"
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A hypervolume: up to so many times the limits, of the figures seen or of those expected of the setting."""

    reach: float
    expected: bool = False


MEASURES: Mapping[str, Measure] = {
    "wide": Measure(reach=WIDE),
    "limits": Measure(reach=1.0),
    "expected": Measure(reach=WIDE, expected=True),
}


def curve(points: Sequence[Point | None], reference: Point) -> list[float]:
    """Return the hypervolume after each trial as a share of the box from zero to `reference`.

    A trial without a point adds nothing. Drops below zero count, so that the share may pass 1.
    """
    seen: list[Point] = []
    found, area = [], reference[0] * reference[1]
    for point in points:
        if point is not None:
            seen.append(point)
        found.append(hypervolume(seen, reference) / area)
    return found


def needed(volumes: Sequence[float], target: float) -> int | None:
    """Return after how many trials the hypervolume is at `target`, or None if it never is."""
    return next((n for n, volume in enumerate(volumes, start=1) if volume >= target - 1e-12), None)


def spent(records: Sequence[TrialRecord], unit: float) -> list[float]:
    """Return the cost, in mean random trials, up to and including each trial."""
    total, found = 0, []
    for record in records:
        total += record.images
        found.append(total / unit)
    return found


def nth_feasible(records: Sequence[TrialRecord], n: int) -> int | None:
    """Return after how many trials `n` of them are feasible, or None."""
    places = [place for place, record in enumerate(records, start=1) if record.feasible]
    return places[n - 1] if len(places) >= n else None


def points(records: Sequence[TrialRecord], surrogate: Surrogate, measure: Measure) -> list[Point | None]:
    """Return the two figures of each trial that ran to its end and did not collapse, None for the others."""
    ended = [record.state == "complete" and not record.collapsed for record in records]
    if measure.expected:
        figures = surrogate.expected([record.setting for record in records])
    else:
        figures = [_seen(record) if whole else (1.0, 1.0) for record, whole in zip(records, ended, strict=True)]
    return [pair if whole else None for pair, whole in zip(figures, ended, strict=True)]


def _seen(record: TrialRecord) -> Point:
    assert record.attack_success_rate is not None
    assert record.accuracy_drop is not None
    return record.attack_success_rate.rate, record.accuracy_drop.value


def measured(records: Sequence[TrialRecord], surrogate: Surrogate) -> dict[str, Any]:
    """Return the curves of one search, its costs and when it was feasible."""
    bounds = limits(surrogate)
    volumes = {}
    for name, measure in MEASURES.items():
        reference = (measure.reach * bounds.max_attack_success_rate, measure.reach * bounds.max_accuracy_drop)
        volumes[name] = curve(points(records, surrogate, measure), reference)
    return {
        "volumes": volumes,
        "cost": spent(records, surrogate.table.mean_images),
        "feasible": {n: nth_feasible(records, n) for n in (1, 3)},
        "stopped": sum(record.state == "pruned" for record in records) / len(records),
        "candidate": {cost: candidate(records, surrogate, cost) for cost in COSTS},
    }


def candidate(records: Sequence[TrialRecord], surrogate: Surrogate, cost: float) -> float:
    """Return the score of the candidate of a search that a cost, in mean random trials, paid for; see above."""
    bounds = limits(surrogate)
    within = (bounds.max_attack_success_rate, bounds.max_accuracy_drop)
    paid = sum(c <= cost for c in spent(records, surrogate.table.mean_images))
    ended = [r for r in records[:paid] if r.state == "complete" and not r.collapsed]
    ranked = sorted(ended, key=lambda record: _score(_seen(record), within))[:CONFIRMED]
    if not ranked:
        return NOTHING
    return min(_score(pair, within) for pair in surrogate.expected([record.setting for record in ranked]))


def _score(figures: Point, within: Point) -> float:
    return max(figure / limit for figure, limit in zip(figures, within, strict=True))


def at_trials(search: Mapping[str, Any], name: str, n: int) -> float:
    """Return the hypervolume after `n` trials."""
    return float(search["volumes"][name][n - 1])


def at_cost(search: Mapping[str, Any], name: str, cost: float) -> float:
    """Return the hypervolume of the trials that a cost, in mean random trials, paid for."""
    return max((v for v, c in zip(search["volumes"][name], search["cost"], strict=True) if c <= cost), default=0.0)


def median(values: Iterable[float | None]) -> float | None:
    """Return the median where None is never: None if more than half are."""
    middle = statistics.median_low(math.inf if value is None else float(value) for value in values)
    return None if math.isinf(middle) else middle


def share(values: Sequence[float | None], most: float) -> float:
    """Return the share of the values that are there and at most `most`."""
    return sum(value is not None and value <= most for value in values) / len(values)


def reached(search: Mapping[str, Any], name: str, target: float) -> tuple[int | None, float | None]:
    """Return (trials, cost) that a search needed for a target."""
    n = needed(search["volumes"][name], target)
    return n, None if n is None else search["cost"][n - 1]


def row(searches: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]], trials: int) -> dict[str, Any]:
    """Return the summary of searches of one arm, each with its suspect's targets."""
    found: dict[str, Any] = {"searches": len(searches), "stopped": statistics.mean(s["stopped"] for s, _ in searches)}
    for name in MEASURES:
        counts, costs = zip(*(reached(search, name, targets[name]) for search, targets in searches), strict=True)
        quarters = [n for n in (trials // 4, trials // 2, trials) if n]
        found[name] = {
            "trials_needed": median(counts),
            "reached_within_trials": share(counts, trials),
            "reached_within_a_quarter": share(counts, trials / 4),
            "cost_needed": median(costs),
            "reached_within_cost": share(costs, trials),
            "reached_within_a_quarter_of_the_cost": share(costs, trials / 4),
            "at_trials": {n: median(at_trials(search, name, n) for search, _ in searches) for n in quarters},
            "at_cost": {n: median(at_cost(search, name, n) for search, _ in searches) for n in quarters},
        }
    scores = {cost: [search["candidate"][cost] for search, _ in searches] for cost in COSTS}
    found["candidate"] = {cost: {"median": median(s), "within_limits": share(s, 1.0)} for cost, s in scores.items()}
    for n in (1, 3):
        places = [search["feasible"][n] for search, _ in searches]
        costs = [
            None if place is None else s["cost"][place - 1] for place, (s, _) in zip(places, searches, strict=True)
        ]
        found[f"feasible_{n}"] = {"trials": median(places), "cost": median(costs)}
    return found


def report(bench: Bench, arms: Sequence[str], seeds: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """Run, or read, every search and return what they come to."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for arm in arms:
        for suspect, surrogate in bench.surrogates.items():
            kept = runs.setdefault(arm, {}).setdefault(suspect, [])
            for seed in seeds:
                kept.append(measured(bench.search(arm, suspect, seed), surrogate))
            say(f"{arm}: {suspect}, {len(seeds)} searches")
    targets = {
        suspect: {name: median(at_trials(s, name, bench.trials) for s in searches) for name in MEASURES}
        for suspect, searches in runs[BASELINE].items()
    }
    rows = []
    for arm, by_suspect in runs.items():
        pairs = {suspect: [(s, targets[suspect]) for s in searches] for suspect, searches in by_suspect.items()}
        everything = [pair for group in pairs.values() for pair in group]
        for suspect, group in {**pairs, ALL: everything}.items():
            rows.append({"arm": arm, "suspect": suspect, **row(group, bench.trials)})
    return {"targets": targets, "rows": rows}


def table_of(found: Mapping[str, Any], trials: int) -> str:
    """Return the report as text, one table per suspect and one of all searches."""
    lines = []
    head = f"{'arm':<18} {'stopped':>7} |" + "|".join(f" {name + ': trials':>17} {'cost':>11} " for name in MEASURES)
    for suspect in dict.fromkeys(row["suspect"] for row in found["rows"]):
        lines += [f"\n{suspect}", head + "| feasible 1st / 3rd (cost)"]
        for one in (row for row in found["rows"] if row["suspect"] == suspect):
            cells = "|".join(_cells(one[name], trials) for name in MEASURES)
            firsts = " / ".join(
                f"{_n(one[f'feasible_{n}']['trials'])} ({_n(one[f'feasible_{n}']['cost'])})" for n in (1, 3)
            )
            lines.append(f"{one['arm']:<18} {one['stopped']:>7.0%} |{cells}| {firsts}")
    lines.append(
        f"\nMedian trials, and cost in mean random trials, until the hypervolume of {trials} random trials; in "
        f"brackets the share of searches that got there within {trials}. '-': more than half never did."
    )
    return "\n".join(lines)


def _cells(one: Mapping[str, Any], trials: int) -> str:
    count = one["trials_needed"]
    shown = "-" if count is None or count > trials else f"{count:.0f}"
    cost = one["cost_needed"]
    spent_on = "-" if cost is None or cost > trials else f"{cost:.1f}"
    return f" {shown:>10} ({one['reached_within_trials']:>4.0%}) {spent_on:>4} ({one['reached_within_cost']:>4.0%}) "


def _n(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def main() -> None:
    """Run the searches asked for, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where searches are kept")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[arm for arm in ARMS if arm not in SLOW])
    parser.add_argument("--suspects", nargs="+", choices=SUSPECTS, default=list(SUSPECTS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    tables = {suspect: Table.load(options.tables / f"{suspect}.json") for suspect in options.suspects}
    surrogates = {suspect: Surrogate(table=table) for suspect, table in tables.items()}
    bench = Bench(surrogates=surrogates, trials=options.trials, work=options.work)
    seeds = range(options.seeds)
    kept = [arm for arm in ARMS if all(bench.kept(arm, s, seed) for s in options.suspects for seed in seeds)]
    wanted = {BASELINE, *options.arms, *kept}
    found = report(bench, [arm for arm in ARMS if arm in wanted], seeds, _say)
    about = "surrogates of recorded real trials, searched for real; not trials of their own"
    facts = {"about": about, "trials": options.trials, "seeds": options.seeds, "measures": MEASURES}
    write_json(options.results, {**facts, "surrogates": {s: errors(t) for s, t in tables.items()}, **found})
    recorded = ", ".join(f"{suspect} {len(table.trials['images'])}" for suspect, table in tables.items())
    _say(f"{about}; recorded trials: {recorded}\n{table_of(found, options.trials)}\n-> {options.results}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
