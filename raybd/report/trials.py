"""Reading the trials of a study for the page: what kind each one was, which ran a published setting."""

from collections.abc import Mapping
from typing import Any

from raybd.report.contents import Card, ReportInput
from raybd.report.style import safe
from raybd.report.wording import name_of, seconds, short, with_interval

KINDS = ("infeasible", "pruned", "collapsed", "feasible", "front")
"""What a trial can be, in drawing order: the later ones lie on top."""


def kind_of(record: Card, front: list[int]) -> str:
    """Return which of `KINDS` a trial is."""
    if record["collapsed"]:
        return "collapsed"
    if record["state"] == "pruned":
        return "pruned"
    if record["number"] in front:
        return "front"
    return "feasible" if record["feasible"] else "infeasible"


def measured(study: Card) -> list[Card]:
    """Return the trials that have both figures, and so a place in the plane."""
    return [r for r in study["records"] if r["clean_accuracy"] and r["attack_success_rate"]]


def references(run: ReportInput) -> Mapping[str, Card]:
    """Return the references' rows by name; none where nothing was assessed."""
    rows: Mapping[str, Card] = (run.assessment or {}).get("references", {})
    return rows


def published(run: ReportInput) -> dict[str, list[int]]:
    """Return which trials ran a setting that has a name: the name -> trial numbers.

    A setting is published when it is a reference's. One that the space lists under `first:` and no reference has
    is called that, since the space's author may have put anything there.
    """
    records = measured(run.study) if run.study else []
    found: dict[str, list[int]] = {}
    claimed: set[int] = set()
    for name, setting in _named_settings(run):
        numbers = [r["number"] for r in records if _agree(r["setting"], setting, run.space.get("defense"))]
        fresh = [number for number in numbers if number not in claimed]
        if fresh:
            found[name] = fresh
            claimed.update(fresh)
    return found


def _named_settings(run: ReportInput) -> list[tuple[str, Card]]:
    known = [
        (f"published: {name_of(name)}", row["setting"]) for name, row in references(run).items() if row.get("setting")
    ]
    first = run.space.get("first") or []
    return known + [(f"first: {i} of the space", setting) for i, setting in enumerate(first, start=1)]


def _agree(trial: Card, setting: Card, defense: str | None) -> bool:
    """A reference names every field, a trial perhaps only the searched ones: what both name must be equal."""
    if setting.get("kind", defense) != trial.get("kind", defense):
        return False
    both = (trial.keys() & setting.keys()) - {"kind"}
    return bool(both) and all(trial[key] == setting[key] for key in both)


def hover(record: Card) -> str:
    """Return what a trial shows under the pointer: its figures, its cost and its setting."""
    lines = [
        f"<b>trial {record['number']}</b>",
        rates_line(record),
        f"{seconds(record['training_seconds'])} of training, {record['steps']:,} steps",
    ]
    if record["reason"]:
        lines.append(f"<i>{safe(record['reason'])}</i>")
    lines += [f"{safe(k)} = {safe(short(v))}" for k, v in record["setting"].items() if k != "kind"]
    return "<br>".join(lines)


def rates_line(rates: Mapping[str, Any]) -> str:
    """Return C-Acc and ASR with their intervals, for a hover label."""
    return f"C-Acc {with_interval(rates['clean_accuracy'])}<br>ASR {with_interval(rates['attack_success_rate'])}"
