"""Reading the trials of a study for the page: what kind each one was, which ran a published setting."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from raybd.defenses import DEFENSES
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

    A setting is published when it is a reference's in every field of the defense, those fixed or left to their
    default included. One that the space lists under `first:` and no reference has is called that, since the space's
    author may have put anything there.
    """
    records = measured(run.study) if run.study else []
    found: dict[str, list[int]] = {}
    claimed: set[int] = set()
    for name, setting in _named_settings(run):
        numbers = [r["number"] for r in records if in_full(r["setting"], run.space) == setting]
        fresh = [number for number in numbers if number not in claimed]
        if fresh:
            found[name] = fresh
            claimed.update(fresh)
    return found


def _named_settings(run: ReportInput) -> list[tuple[str, Card]]:
    known = [
        (f"published: {name_of(name)}", _with_defaults(row["setting"]))
        for name, row in references(run).items()
        if row.get("setting")
    ]
    first = enumerate(run.space.get("first") or [], start=1)
    return known + [(f"first: {i} of the space", in_full(setting, run.space)) for i, setting in first]


def in_full(setting: Card, space: Card) -> Card:
    """Every field of the defense that a setting of `space` stands for; it names only the searched ones."""
    return _with_defaults({"kind": space.get("defense"), **space.get("fixed", {}), **setting})


def _with_defaults(setting: Card) -> Card:
    cls = DEFENSES.get(str(setting.get("kind")))
    defaults = {f.name: f.default for f in fields(cls) if f.default is not MISSING} if cls else {}
    return {**defaults, **setting}


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
