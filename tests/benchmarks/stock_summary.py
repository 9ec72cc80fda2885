"""From timed rows to medians, ratios and the text that is printed: pure functions."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]
"""Timed searches by row name (`stock as written`, `raybd auto`, ...): repeats, or search seeds."""


def per_hour(row: Row) -> float:
    """Return the trials per hour of a whole search, from the call to its return."""
    return 3600 * len(row["trials"]) / float(row["seconds"])


def steady_per_hour(row: Row) -> float:
    """Return the trials per hour from when the first could begin to the end of the last.

    What a search does once (open its records, load data, export the models of its front) is left out, so this
    is the rate that a long search tends to.
    """
    return 3600 * len(row["trials"]) / (max(trial["end"] for trial in row["trials"]) - float(row["began"]))


def first_feasible(row: Row) -> float:
    """Return the seconds to the end of the first feasible trial; infinite if none was found."""
    return min((trial["end"] for trial in row["trials"] if trial["feasible"]), default=math.inf)


def waited(row: Row) -> float:
    """Return the seconds to the first feasible trial, or, if none was found, those spent looking."""
    found = first_feasible(row)
    return found if math.isfinite(found) else float(row["seconds"])


def throughput(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return, by row, the medians of the repeats."""
    return {
        name: {
            "repeats": len(repeats),
            "trials": len(repeats[0]["trials"]),
            "precision": repeats[0]["precision"],
            "trials_per_hour": statistics.median(map(per_hour, repeats)),
            "steady_trials_per_hour": statistics.median(map(steady_per_hour, repeats)),
        }
        for name, repeats in rows.items()
        if repeats
    }


def feasibility(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return, by row, the median seconds to the first feasible trial.

    A search that found none counts as longer than any other. If that makes the median unknown, `median_seconds` is
    None and `at_least_seconds` is the median time that the searches had.
    """
    found = {}
    for name, seeds in rows.items():
        if seeds:
            median = statistics.median(map(first_feasible, seeds))
            found[name] = {
                "seeds": len(seeds),
                "found": sum(math.isfinite(first_feasible(row)) for row in seeds),
                "median_seconds": median if math.isfinite(median) else None,
                "at_least_seconds": statistics.median(map(waited, seeds)),
            }
    return found


def agreement(rows: Rows, ours: str, theirs: str) -> dict[str, float]:
    """Return how far two rows' trials of the same settings lie apart, in points, over all repeats.

    `clean_accuracy` and `attack_success_rate` are means of ours minus theirs, `..._half` the half width of their 95 %
    intervals over the settings (0 for one setting), `..._spread` the largest difference of a setting's means. Trials
    that raybd stopped as collapsed are left out: the other side trained on.
    """
    mine, others = _by_setting(rows[ours]), _by_setting(rows[theirs])
    shared = [key for key in mine if key in others]
    apart: dict[str, float] = {"trials": len(shared), "repeats": min(len(rows[ours]), len(rows[theirs]))}
    for name in ("clean_accuracy", "attack_success_rate") if shared else ():
        means = [100 * (_mean(mine[key], name) - _mean(others[key], name)) for key in shared]
        apart[name] = statistics.mean(means)
        apart[f"{name}_half"] = half_width(means)
        apart[f"{name}_spread"] = max(map(abs, means))
    return apart


def half_width(values: Sequence[float]) -> float:
    """Return the half width of the 95 % interval of a mean; 0 for one value, which has none."""
    if len(values) < 2:
        return 0.0
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def _mean(trials: Sequence[Row], name: str) -> float:
    return statistics.mean(trial[name] for trial in trials)


def _by_setting(repeats: Sequence[Row]) -> dict[tuple[tuple[str, Any], ...], list[Row]]:
    found: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for trial in (trial for row in repeats for trial in row["trials"]):
        if not trial.get("collapsed"):
            found.setdefault(_key(trial["setting"]), []).append(trial)
    return found


def _key(setting: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(setting.items()))


def ratios(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each row of ours against each of the stock rows, how many times better ours is.

    `first_feasible_at_least` says that the stock side found nothing, so the ratio is a lower bound; the ratio is
    None where ours found nothing.
    """
    rates, times = throughput(document["throughput"]), feasibility(document["first_feasible"])
    found: dict[str, dict[str, Any]] = {}
    for ours in (name for name in {**rates, **times} if name.startswith("raybd")):
        for theirs in (name for name in {**rates, **times} if name.startswith("stock")):
            pair: dict[str, Any] = {}
            if ours in rates and theirs in rates:
                for key in ("trials_per_hour", "steady_trials_per_hour"):
                    pair[key] = rates[ours][key] / rates[theirs][key]
            if ours in times and theirs in times:
                pair |= _time_ratio(times[ours], times[theirs])
            if pair:
                found[f"{ours} / {theirs}"] = pair
    return found


def _time_ratio(ours: Row, theirs: Row) -> dict[str, Any]:
    seconds = ours["median_seconds"]
    unknown = theirs["median_seconds"] is None
    longer = theirs["at_least_seconds"] if unknown else theirs["median_seconds"]
    return {"first_feasible": longer / seconds if seconds else None, "first_feasible_at_least": unknown}


def lines(document: Mapping[str, Any]) -> list[str]:
    """Return the report, its ratios last."""
    text = [f"measured on: {document['environment']['cpu']}, {document['cpu_features']}, options {document['options']}"]
    for name, row in throughput(document["throughput"]).items():
        text.append(
            f"{name} ({row['precision']}): {row['trials_per_hour']:.1f} trials per hour over the whole search, "
            f"{row['steady_trials_per_hour']:.1f} between its start-up and its closing "
            f"(median of {row['repeats']}, {row['trials']} settings)"
        )
    for name, times in feasibility(document["first_feasible"]).items():
        seconds = times["median_seconds"]
        took = f"over {times['at_least_seconds']:.0f} s" if seconds is None else f"{seconds:.0f} s"
        text.append(f"{name}: first feasible trial after {took} (median of {times['seeds']}, {times['found']} found)")
    for pair, apart in document["agreement"].items():
        if "clean_accuracy" in apart:
            text.append(
                f"{pair}, same {apart['trials']} settings: C-Acc {apart['clean_accuracy']:+.1f} +- "
                f"{apart['clean_accuracy_half']:.1f} points (at most {apart['clean_accuracy_spread']:.1f}), ASR "
                f"{apart['attack_success_rate']:+.1f} +- {apart['attack_success_rate_half']:.1f} "
                f"({apart['attack_success_rate_spread']:.1f})"
            )
    text += [document["left_out"]] if document["left_out"] else []
    text.append("ratios (higher is better for raybd):")
    for name, pair in ratios(document).items():
        text.append(f"  {name}: " + ", ".join(_ratio_words(pair)))
    return text


def _ratio_words(pair: Mapping[str, Any]) -> list[str]:
    words = []
    if "trials_per_hour" in pair:
        words.append(f"{pair['trials_per_hour']:.2f}x the trials per hour")
        words.append(f"{pair['steady_trials_per_hour']:.2f}x without start-up and closing")
    if "first_feasible" in pair:
        ratio, bound = pair["first_feasible"], "at least " if pair["first_feasible_at_least"] else ""
        words.append(
            "no feasible trial of ours" if ratio is None else f"first feasible trial {bound}{ratio:.2f}x sooner"
        )
    return words
