"""The run in figures: `summary.json` for programs and the before/after table for a terminal."""

from typing import Any

from raybd.report.contents import Card, ReportInput
from raybd.report.verdict import verdict
from raybd.report.wording import MISSING, count, name_of, plain, points, seconds, with_interval

RATES = ("clean_accuracy", "attack_success_rate", "robust_accuracy")

TABLE_HEADER = ("model", "C-Acc", "ASR", "R-Acc", "C-Acc lost, points", "cost")


def summarise(run: ReportInput) -> Card:
    """Return what `summary.json` holds; a part whose stage has not run is null."""
    assessment, found = run.assessment or {}, verdict(run)
    return {
        "name": run.name,
        "verdict": {"word": found.word, "sentence": found.sentence},
        "trigger_knowledge": run.suspect_card["trigger_knowledge"],
        "suspect": assessment.get("suspect"),
        "references": assessment.get("references"),
        "selected": assessment.get("selected"),
        "never_poisoned": assessment.get("never_poisoned"),
        "search": search_counts(run.study),
        "select": None if run.selection is None else {k: run.selection[k] for k in ("number", "why", "setting")},
        "sequela": assessment.get("sequela"),
        "checks": assessment.get("checks"),
        "test_looks": assessment.get("test_looks"),
        "registry": _registry(run.promotion),
        "missing": {stage: run.why_missing(stage) for stage in missing_stages(run)},
        "warnings": list(run.suspect_card.get("warnings", ())),
        "provenance": run.provenance,
    }


def missing_stages(run: ReportInput) -> list[str]:
    """Return the words of the stages that have left no card, in the order of the flow."""
    cards = {"search": run.study, "select": run.selection, "assess": run.assessment, "promote": run.promotion}
    return [stage for stage, card in cards.items() if card is None]


def search_counts(study: Card | None) -> Card | None:
    """Return the counts and times of a study: `trials` = `complete` + `pruned`, `collapsed` within `complete`.

    A trial is `failed` by an error of its own, `interrupted` where the search ended while it ran.
    """
    if study is None:
        return None
    records = study["records"]
    states = [record["state"] for record in records]
    complete, pruned = states.count("complete"), states.count("pruned")
    interrupted = sum(bool(record.get("interrupted")) for record in records)  # not in cards of earlier versions
    elapsed = float(study["seconds"])
    return {
        "trials": complete + pruned,
        "complete": complete,
        "pruned": pruned,
        "collapsed": sum(r["collapsed"] for r in records if r["state"] == "complete"),
        "failed": states.count("failed") - interrupted,
        "interrupted": interrupted,
        "feasible": sum(r["feasible"] for r in records),
        "seconds": elapsed,
        "trials_per_hour": 3600 * (complete + pruned) / elapsed if elapsed > 0 else None,
        "training_seconds": sum(r["training_seconds"] or 0 for r in records),
        "evaluation_seconds": sum(r["evaluation_seconds"] or 0 for r in records),
        "sampler": study["sampler"],
        "successors": study.get("successors", {}),  # not in cards of earlier versions
        "seed": study["seed"],
    }


def rows(assessment: Card) -> list[tuple[str, Card]]:
    """Return the assessed models in reading order: suspect, references, candidate, never-poisoned twin."""
    listed = [("suspect", assessment["suspect"]), *assessment["references"].items()]
    listed.append(("candidate", assessment["selected"]))
    twin = assessment.get("never_poisoned")
    return [*listed, ("never_poisoned", twin)] if twin else listed


def table_rows(assessment: Card) -> list[list[str]]:
    """Return the before/after table as plain text, header first: one row per model, rates with 95 % intervals."""
    lines = [_table_row(name, row) for name, row in rows(assessment)]
    return [list(TABLE_HEADER), *([plain(cell) for cell in line] for line in lines)]


def _table_row(name: str, row: Card) -> list[str]:
    label = name_of(name) + (" (collapsed)" if row["collapsed"] else "")
    rates = [with_interval(row[rate]) for rate in RATES]
    return [label, *rates, points(row["accuracy_drop"]), cost(row)]


def cost(row: Card) -> str:
    """Return what a model's defense cost: training time and image-steps; a dash where nothing was trained."""
    if not row["images"]:
        return MISSING
    return f"{seconds(row['training_seconds'])}, {count(row['images'])} images"


def _registry(promotion: Card | None) -> dict[str, Any] | None:
    if promotion is None:
        return None
    told = {key: promotion[key] for key in ("name", "version", "alias", "promoted", "refusals")}
    back = promotion.get("rolled_back_to")
    return told if back is None else told | {"rolled_back_to": back}
