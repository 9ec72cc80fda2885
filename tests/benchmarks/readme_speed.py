"""The README's tables of speed, from the results of the benchmarks that measured them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import stock_summary

RESULTS = Path(__file__).parent / "results"
SUSPECTS = {"demo": "the demo's digits", "third_party": "the third party's model"}
CASES = {"gtsrb": "third party's model", "digits": "digits"}
ARMS = {
    "random": "random",
    "qmc": "quasi-random",
    "nsga2": "NSGA-II",
    "gp": "Gaussian process",
    "stock": "stock `OptunaSearch`, two metrics",
    "tpe": "**raybd** (TPE with constraints)",
    "tpe hopeless": "raybd, `stop_hopeless`",
    "tpe halving": "raybd, `early_stopping: halving`",
    "tpe both": "raybd, both",
    "tpe warm": "raybd, `--warm-start` from the two other suspects",
    "tpe warm hopeless": "raybd, warm start and `stop_hopeless`",
    "tpe warm halving": "raybd, warm start and halving",
    "tpe warm both": "raybd, warm start and both",
    "random warm": "random, warm start",
}
GROWTH = (
    ("trials", "seconds of a search, no-op trials on two workers, against trials", "trials", "seconds", "seconds"),
    ("trials", "of it, seconds per trial once started", "trials", "steady", "steady"),
    ("workers", "seconds per trial that computes, against workers", "workers", "steady", "steady"),
    ("cluster", "seconds per trial sleeping 2 s, against a simulated cluster's slots", "workers", "steady", "steady"),
    ("model", "training s per image, against parameters", "parameters", "seconds_per_image", "seconds in parameters"),
    ("clean_set", "training seconds of a trial, against clean images", "images", "seconds", "seconds"),
    ("memory", "the driver's bytes, against trials", "trials", "bytes", "bytes"),
)  # fmt: skip
"""Rows of the table of growth: part of the results, words, columns x and y, name of the fit."""


def blocks() -> dict[str, str]:
    """Return what belongs between the markers of the README, for each benchmark that has results."""
    found = {}
    for name, (files, table) in TABLES.items():
        results = [_read(file) for file in files if (RESULTS / file).is_file()]
        if results:
            found[name] = table(results)
    return found


def _read(file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return content


def machine(results: Mapping[str, Any]) -> str:
    """Return on what something was measured, in a sentence."""
    facts = results["environment"]
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "ray", "optuna"))
    gpu = "no GPU" if facts["gpu"] == "none" else facts["gpu"]
    return f"Measured on {facts['cores']} cores of an {facts['cpu']}, {gpu}, {versions}."


def where(results: list[dict[str, Any]]) -> str:
    """Return where worker time goes: one row per suspect."""
    rows = [
        "| search | took | training | evaluation | workers' start | idle at the end | Ray, Optuna, MLflow | images/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        shares = " | ".join(f"{one[f'{part}_share']:.1%}" for part in ("training", "evaluation", "start", "tail"))
        rows.append(
            f"| {SUSPECTS[one['suspect']]}, {one['trials']} trials, {one['precision']} | {one['seconds']:,.0f} s | "
            f"{shares} | {one['overhead_seconds_per_trial']:.3f} s per trial | "
            f"{one['images_per_second_of_training']:,.0f} |"
        )
    note = (
        f"Shares of the time of {results[0]['workers']} workers, one search each; images/s of one worker while it "
        "trains, which is slower by whatever the driver takes of the same cores."
    )
    return "\n".join([*rows, "", f"{note} {machine(results[0])}"])


def stock(results: list[dict[str, Any]]) -> str:
    """Return the comparison with the pipeline a user would write: a table for each run."""
    parts = []
    for one in results:
        rates, times = stock_summary.throughput(one["throughput"]), stock_summary.feasibility(one["first_feasible"])
        options = one["options"]
        listed, searched = CASES[options["throughput_on"]], CASES[options["first_feasible_on"]]
        rows = [f"| pipeline | trials per hour, {listed} | first feasible trial, {searched} |", "|---|---|---|"]
        rows += [f"| {name} ({rate['precision']}) | {_rate(rate)} | {_wait(times.get(name))} |"
                 for name, rate in rates.items()]  # fmt: skip
        pairs = "; ".join(f"{name}: {_ratios(pair)}" for name, pair in one["ratios"].items() if "as written" in name)
        epochs = f" of {options['epochs'][0]} to {options['epochs'][1]} epochs" if options["epochs"] else ""
        note = (
            f"{options['settings']} settings{epochs}, {options['repeats']} run(s) each; searches for a feasible trial: "
            f"{len(options['seeds'])} seed(s), budget {options['budget']}. {pairs}. {_agreement(one)} {machine(one)}"
        )
        parts.append("\n".join([*rows, "", note]))
    return "\n\n".join(parts)


def _agreement(one: Mapping[str, Any]) -> str:
    texts = []
    for name, apart in one["agreement"].items():
        rates = (("C-Acc", "clean_accuracy"), ("ASR", "attack_success_rate"))
        told = ", ".join(f"{short} {apart[rate]:+.1f} ± {apart[rate + '_half']:.1f}" for short, rate in rates)
        texts.append(f"{name}: {told}")
    return f"The same settings on both sides, mean difference in points with its 95 % interval: {'; '.join(texts)}."


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{rate['trials_per_hour']:,.0f} ({rate['steady_trials_per_hour']:,.0f} without start and closing)"


def _wait(times: Mapping[str, Any] | None) -> str:
    if times is None:
        return ""
    seconds = times["median_seconds"]
    found = f"{times['found']} of {times['seeds']} found one"
    return f"over {times['at_least_seconds']:.0f} s, {found}" if seconds is None else f"{seconds:.1f} s, {found}"


def _ratios(pair: Mapping[str, Any]) -> str:
    words = [f"{pair['trials_per_hour']:.1f}x the trials per hour"]
    if pair.get("first_feasible"):
        bound = "at least " if pair["first_feasible_at_least"] else ""
        words.append(f"first feasible trial {bound}{pair['first_feasible']:.1f}x sooner")
    return ", ".join(words)


def precision(results: list[dict[str, Any]]) -> str:
    """Return bf16 against fp32: one row per suspect."""
    rows = ["| bf16 minus fp32, points | pairs | C-Acc | ASR | fp32's own sd over seeds |", "|---|---|---|---|---|"]
    collapsed = [one["collapsed_in_one"] + one["collapsed_in_both"] for one in results]
    for one in results:
        apart = " | ".join(_apart(one["difference"][rate]) for rate in ("clean_accuracy", "attack_success_rate"))
        own = " / ".join(f"{100 * one['spread_of_fp32'][r]:.1f}" for r in ("clean_accuracy", "attack_success_rate"))
        rows.append(f"| {SUSPECTS[one['suspect']]} | {one['compared']} | {apart} | {own} |")
    seen = "; ".join(f"{SUSPECTS[one['suspect']]}: {one['settings']} settings, {one['seeds']} seeds" for one in results)
    set_apart = f"pairs set apart because one or both collapsed: {', '.join(map(str, collapsed))}"
    return "\n".join([*rows, "", f"95 % intervals over settings; {seen}; {set_apart}. {machine(results[0])}"])


def _apart(difference: Mapping[str, Any]) -> str:
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    verdict = "equivalent" if difference["equivalent"] else "NOT shown equivalent"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], {verdict}"


def quality(results: list[dict[str, Any]]) -> str:
    """Return how many trials each way to search needs for what random search reaches, over all suspects."""
    (one,) = results
    most = one["trials"]
    rows = [
        (
            "| search | within ten times the limits: trials / cost | within the limits: trials / cost | "
            f"there with {most // 4} trials | 1st / 3rd feasible trial | candidate at cost 8, 16, 32 |"
        ),
        "|---|---|---|---|---|---|",
    ]
    summaries = {row["arm"]: row for row in one["rows"] if row["suspect"] == "all"}
    for arm in (arm for arm in ARMS if arm in summaries):
        row = summaries[arm]
        cells = [
            " / ".join(_count(row[name][f"{axis}_needed"], most) for axis in ("trials", "cost"))
            + f" ({row[name]['reached_within_trials']:.0%})"
            for name in ("wide", "limits")
        ]
        quarter = " / ".join(f"{row[name]['reached_within_a_quarter']:.0%}" for name in ("wide", "limits"))
        firsts = " / ".join(_count(row[f"feasible_{n}"]["trials"], most) for n in (1, 3))
        scores = ", ".join(f"{row['candidate'][str(cost)]['median']:.2f}" for cost in (8, 16, 32))
        rows.append(f"| {ARMS[arm]} | {' | '.join(cells)} | {quarter} | {firsts} | {scores} |")
    note = (
        f"Median trials, and cost in mean random trials, until a search has the hypervolume that {most} random trials "
        f"reach in the median; in brackets the share of {len(one['surrogates'])} suspects x {one['seeds']} seeds that "
        f"got there within {most} trials. A stopped trial costs what it had cost by then. The searches that warm one "
        f"up ({most} trials on each of the other two suspects) are not counted. Two settings that differ by luck alone "
        "count as different here, which favours whoever completes more trials. The candidate does not rest on luck: "
        "the larger of its figures by their limits, as the best of the three settings that looked furthest inside "
        "gives them on average."
    )
    return "\n".join([*rows, "", note])


def _count(value: float | None, most: int) -> str:
    return f"over {most}" if value is None or value > most else f"{value:.0f}"


def growth(results: list[dict[str, Any]]) -> str:
    """Return the fitted exponents, a row for each fit, then what an ask costs."""
    (one,) = results
    rows = ["| what grows | measured | fitted exponent |", "|---|---|---|"]
    for part, words, x, y, fit in GROWTH:
        for series in one["parts"].get(part, {"series": {}})["series"].values():
            measured = ", ".join(f"{row[x]:,}: {row[y]:,.3g}" for row in series["rows"])
            rows.append(f"| {words} | {measured} | {_fit(series['fits'][fit])} |")
    if "sampler" in one["parts"]:
        rows += ["", *_asks(one["parts"]["sampler"])]
    return "\n".join([*rows, "", machine(next(iter(one["parts"].values())))])


def _fit(fit: Mapping[str, Any] | None) -> str:
    if fit is None:
        return "too few points"
    error = "" if fit["standard_error"] is None else f" ± {fit['standard_error']:.2f}"
    return f"{fit['exponent']:.2f}{error} ({fit['points']} points)"


def _asks(part: Mapping[str, Any]) -> list[str]:
    counts = sorted({int(row["trials"]) for series in part["series"].values() for row in series["rows"]})
    rows = [
        "| milliseconds to propose a setting after | " + " | ".join(f"{n:,}" for n in counts) + " trials |",
        "|---|" + "---|" * len(counts),
    ]
    for name, series in part["series"].items():
        taken = {int(row["trials"]): f"{1000 * row['seconds']:,.0f}" for row in series["rows"]}
        rows.append(f"| {name} | " + " | ".join(taken.get(n, "") for n in counts) + " |")
    return rows


Table = Callable[[list[dict[str, Any]]], str]
TABLES: Mapping[str, tuple[tuple[str, ...], Table]] = {
    "where-time-goes": (("where_time_goes_demo.json", "where_time_goes_third_party.json"), where),
    "stock": (("stock_pipeline_quick.json", "stock_pipeline.json"), stock),
    "precision": (("fast_path_demo.json", "fast_path_third_party.json"), precision),
    "search-quality": (("search_quality.json",), quality),
    "growth": (("growth.json",), growth),
}
"""By marker: the files it is made from, those that are there, and how."""
