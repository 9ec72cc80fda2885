"""The page: every section as plain values, and the template that sets them."""

import json
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from raybd.gate import ALL_POOLED
from raybd.report import assessment_figures, epochs, search_figures, tables
from raybd.report.alike import ALIKE, repeated, seeds_alike
from raybd.report.contents import Card, ReportInput, moved
from raybd.report.pictures import gallery
from raybd.report.references import used
from raybd.report.sequela import membership_sections, reinjection_section
from raybd.report.style import Figure, marks
from raybd.report.trials import KINDS, in_full, kind_of, measured, published
from raybd.report.verdict import trust, verdict, warnings
from raybd.report.wording import MISSING, bracket, count, decimal, digest, name_of, percent, seconds, setting, short

SPLITS = {
    "clean_set": "the defender trains on it",
    "selection": "the search looks at it; the choice is made here",
    "test": "looked at by the assessment only",
    "members": "known training images of the suspect, for membership inference",
}
"""Split -> what it is for; `train` depends on who trained the suspect, and on what."""
TRAIN = {
    ("standalone", "inject"): "the suspect was trained on it, poisoned by the attack",
    ("standalone", "adopt"): "the rest of the train part: the suspect may have been trained on it",
    ("moved", "inject"): "the rest of the user's own images: what the attacker may hold of them; the suspect was "
    "trained on another task's",
    ("moved", "adopt"): "the rest of the user's own images: not used; the suspect was trained on another task's",
}
"""Whether the suspect came from another task, and how it came here -> what the split `train` is."""

STATUS = {"passed": ("✓", "good"), "failed": ("✗", "bad"), "undecided": ("?", "open")}


def html(run: ReportInput) -> str:
    """Return the whole page, which asks for no other file and no network."""
    folder = resources.files("raybd.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    template = environment.from_string((folder / "report.html.jinja2").read_text(encoding="utf-8"))
    return template.render(
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        embedded=embedded,
        **context(run),
    )


def context(run: ReportInput) -> dict[str, Any]:
    """Return what the template sets, section by section; None where a stage has left nothing to show."""
    sequela = (run.assessment or {}).get("sequela")
    return {
        "name": run.name,
        "verdict": verdict(run),
        "trust": trust(run),
        "warnings": warnings(run),
        "missing": {stage: run.why_missing(stage) for stage in ("search", "select", "assess", "promote")},
        "comparison": _comparison(run),
        "checks": _checks(run),
        "search": _search(run),
        "chosen": _chosen(run),
        "classes": _classes(run),
        "membership": membership_sections(sequela, other_task=moved(run.suspect_card)),
        "reinjection": reinjection_section(sequela),
        "examples": None if run.examples is None else gallery(run.examples),
        "why_no_examples": run.missing.get("examples", "No example images were kept."),
        "suspect": _suspect(run.suspect_card),
        "splits": _splits(run.suspect_card),
        "provenance": _provenance(run),
        "study": json.dumps(run.provenance["study"], indent=2) if "study" in run.provenance else None,
        "commands": [str(command) for command in run.provenance.get("commands", ())],
        "references": used(run),
    }


def embedded(chart: Figure) -> str:
    """Return a figure as JSON that may stand, unescaped, inside a script element: it holds no `<`."""
    text = json.dumps(chart, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


def _comparison(run: ReportInput) -> dict[str, Any] | None:
    if run.assessment is None:
        return None
    rows = tables.rows(run.assessment)
    styles = marks([name for name, _ in rows])
    images = epochs.clean_images(run.suspect_card)
    limit = run.gate.get("max_attack_success_rate")
    suspect = run.assessment["suspect"]
    return {
        "rows": [_row(name, row, styles[name].color) for name, row in rows],
        "n": count(suspect["clean_accuracy"]["n"]),
        "n_triggered": count(suspect["attack_success_rate"]["n"]),
        "limit": None if limit is None else 100 * limit,
        "settings": [
            (name_of(name), setting(epochs.told(row["setting"], images))) for name, row in rows if row["setting"]
        ],
        "seeds": any(row["spread"] for _, row in rows),
        "alike": ALIKE if any(seeds_alike(row) for _, row in rows) else None,
        "looks": run.assessment.get("test_looks"),
    }


def _row(name: str, row: Card, color: str) -> dict[str, Any]:
    drop = row["accuracy_drop"]
    return {
        "key": name,
        "name": name_of(name),
        "color": color,
        "collapsed": row["collapsed"],
        "alike": seeds_alike(row),
        "rates": [_cell(row, rate) for rate in tables.RATES],
        "drop": None if drop is None else {"value": percent(drop["value"]), "interval": bracket(drop)},
        "seconds": seconds(row["training_seconds"]) if row["images"] else None,
        "images": count(row["images"]),
    }


def _cell(row: Card, name: str) -> dict[str, Any]:
    """One rate of one model: the figure, its interval, its place on a scale of 0 to 100, its spread over seeds."""
    rate = row[name]
    spread = (row["spread"] or {}).get(name)
    return {
        "label": {"clean_accuracy": "C-Acc, %", "attack_success_rate": "ASR, %", "robust_accuracy": "R-Acc, %"}[name],
        "asr": name == "attack_success_rate",
        "value": percent(rate["rate"]),
        "interval": bracket(rate),
        "at": round(100 * rate["rate"], 2),
        "low": round(100 * rate["low"], 2),
        "width": round(100 * (rate["high"] - rate["low"]), 2),
        "n": count(rate["n"]),
        "spread": None
        if not spread
        else f"{percent(spread['mean'])} ± {percent(spread['sd'])} over {spread['seeds']} seeds",
    }


def _checks(run: ReportInput) -> list[dict[str, Any]] | None:
    if run.assessment is None:
        return None
    pooled = all_pooled(run.assessment)
    return [
        {**_check(check), "told": check["status"] != "passed" or (pooled and check["name"] == "class_accuracy_drop")}
        for check in run.assessment["checks"]
    ]


def all_pooled(assessment: Card) -> bool:
    """Whether no class had test images enough to be judged alone."""
    return [entry["label"] for entry in assessment["suspect"]["per_class"]] == [None]


def _check(check: Card) -> dict[str, Any]:
    sign, tone = STATUS[check["status"]]
    # An AUC is no share of images: it keeps its own scale.
    auc = "auc" in check["name"]
    value, bound, limit = (
        decimal(check[key], 3) if auc else percent(check[key], 2) for key in ("value", "bound", "limit")
    )
    name = name_of(check["name"]) + ("" if auc else ", points" if "drop" in check["name"] else ", %")
    figures = {"value": value, "bound": bound, "limit": limit, "n": count(check["n"]), "detail": check["detail"]}
    return {"name": name, "sign": sign, "tone": tone, "status": check["status"], **figures}


def _successors(taken_over: dict[str, int]) -> str:
    return "".join(f"; {name} after {count(draws)} settings" for name, draws in taken_over.items())


def _search(run: ReportInput) -> dict[str, Any] | None:
    if run.study is None:
        return None
    figures = tables.search_counts(run.study) or {}
    per_hour = figures["trials_per_hour"]
    return {
        "facts": [
            ("trials", count(figures["trials"])),
            ("complete", f"{count(figures['complete'])}, of which {count(figures['collapsed'])} collapsed"),
            ("stopped early", count(figures["pruned"])),
            ("failed (not counted)", count(figures["failed"])),
            *([("interrupted (repeated)", count(figures["interrupted"]))] if figures["interrupted"] else []),
            ("within both limits", count(figures["feasible"])),
            ("wall clock", seconds(figures["seconds"]) + (f", {per_hour:,.0f} trials an hour" if per_hour else "")),
            ("training", seconds(figures["training_seconds"])),
            ("evaluation", seconds(figures["evaluation_seconds"])),
            ("sampler", f"{figures['sampler']}, seed {figures['seed']}" + _successors(figures["successors"])),
        ],
        "pareto": search_figures.pareto(run, run.study),
        "effects": [
            {"name": parameter, "figure": search_figures.effect(run, run.study, parameter)}
            for parameter in run.space.get("search", {})
        ],
        "n": count(run.study["reference"]["n"]),
        "unseen": _unseen(run.study),
        "gate": search_figures.corner_of(run.gate, run.study["reference"]),
        "own": search_figures.own_corner(run, run.study),
        **_trial_table(run, run.study),
    }


def _unseen(study: Card) -> str:
    """What the first view of the front leaves out: trials so wrecked that showing them would hide the others."""
    kinds = [kind_of(record, study["front"]) for record in measured(study)]
    wrecked = {"collapsed": kinds.count("collapsed"), "stopped early": kinds.count("pruned")}
    return " and ".join(f"{n} {kind}" for kind, n in wrecked.items() if n)


def _trial_table(run: ReportInput, study: Card) -> dict[str, Any]:
    """Every trial as text: what the figures show, for readers who cannot use them."""
    parameters = list(run.space.get("search", {}))
    chosen = (run.selection or {}).get("number")
    images = epochs.clean_images(run.suspect_card)
    shown = [epochs.told(in_full(r["setting"], run.space), images) for r in study["records"]]
    names = {number: name for name, numbers in published(run).items() for number in numbers}
    return {
        "parameters": parameters,
        "kinds": KINDS,
        "trials": [
            {
                "number": r["number"],
                "kind": _kind(r, study["front"]),
                "note": "chosen" if r["number"] == chosen else names.get(r["number"], ""),
                "reason": r["reason"] or r["error"],
                "clean_accuracy": _rate_text(r["clean_accuracy"]),
                "attack_success_rate": _rate_text(r["attack_success_rate"]),
                "seconds": decimal(r["training_seconds"]),
                "values": [short(settings.get(parameter)) for parameter in parameters],
            }
            for r, settings in zip(study["records"], shown, strict=True)
        ],
        "rounded": any(isinstance(settings.get("epochs"), str) for settings in shown),
    }


def _kind(record: Card, front: list[int]) -> str:
    if record["state"] == "failed":
        return "interrupted" if record.get("interrupted") else "failed"
    return kind_of(record, front)


def _rate_text(rate: Card | None) -> str:
    return MISSING if rate is None else f"{percent(rate['rate'])} {bracket(rate)}"


def _chosen(run: ReportInput) -> dict[str, Any] | None:
    if run.selection is None:
        return None
    selection = run.selection
    shown = epochs.told(selection["defense"], epochs.clean_images(run.suspect_card))
    return {
        "number": selection["number"],
        "why": selection["why"],
        "setting": [(key, short(value)) for key, value in shown.items() if key != "kind"],
        "rounded": isinstance(shown.get("epochs"), str),
        "seeds": short(selection["seeds"]),
        "shipped_seed": selection["shipped_seed"],
        "confirmed": [
            {
                "number": setting["number"],
                "scores": ", ".join("collapsed" if score is None else f"{score:.2f}" for score in setting["scores"]),
                "clean_accuracy": ", ".join(percent(rate["rate"]) for rate in setting["clean_accuracy"]),
                "attack_success_rate": ", ".join(percent(rate["rate"]) for rate in setting["attack_success_rate"]),
                "won": setting["number"] == selection["number"],
                "alike": repeated(setting),
            }
            for setting in selection["confirmed"]
        ],
        "alike": ALIKE if any(repeated(setting) for setting in selection["confirmed"]) else None,
        "schedule": search_figures.schedules(run, run.schedule) if run.schedule else None,
    }


def _classes(run: ReportInput) -> dict[str, Any] | None:
    if run.assessment is None:
        return None
    before, after = run.assessment["suspect"], run.assessment["selected"]
    if all_pooled(run.assessment):
        return {"pooled": ALL_POOLED, "n": count(before["clean_accuracy"]["n"])}
    later = {entry["label"]: entry for entry in after["per_class"]}
    return {
        "pooled": None,
        "figure": assessment_figures.classes(before, after),
        "rows": [
            {
                "label": "small classes, pooled" if entry["label"] is None else str(entry["label"]),
                "n": count(entry["n"]),
                "before": _rate_text(entry),
                "after": _rate_text(later[entry["label"]]),
            }
            for entry in before["per_class"]
            if entry["label"] in later
        ],
    }


def _suspect(card: Card) -> list[tuple[str, str]]:
    how = {"adopt": "adopted: trained by others", "inject": "injected: its backdoor was planted here"}
    trigger = card["trigger"]
    lines = {
        "origin": how.get(str(card["how"]), card["how"]),
        **{key: card["facts"][key] for key in ("scenario", "reference_model", "upstream") if key in card["facts"]},
        "architecture": _architecture(card["architecture"]),
        "weights": digest(card["weights_digest"]),
        "trigger": setting({k: v for k, v in trigger.items() if k != "digest"}) if trigger else "not known",
        "trigger knowledge": card["trigger_knowledge"],
        "attack": card.get("attack") or "not ours: not known",
    }
    return _facts(lines) + [(f"never-poisoned twin: {key}", value) for key, value in _facts(card.get("twin") or {})]


def _architecture(card: Card) -> str:
    arguments = f" ({setting(card['arguments'])})" if card["arguments"] else ""
    shape = " x ".join(str(size) for size in card["shape"])
    return f"{card['name'] or card['factory']}{arguments}, {card['classes']} classes, {shape}"


def _splits(card: Card) -> list[dict[str, str]]:
    task = "moved" if moved(card) else "standalone"
    words = {**SPLITS, "train": TRAIN.get((task, str(card["how"])), "")}
    return [
        {
            "name": name_of(name),
            "n": count(part["images"]),
            "use": words.get(name, ""),
            "digest": digest(part["digest"]),
        }
        for name, part in card["splits"].items()
    ]


def _provenance(run: ReportInput) -> list[tuple[str, str]]:
    """What is known of how the figures came about; how they were computed is the suspect's word, not the study's."""
    facts = {k: v for k, v in run.provenance.items() if k not in {"commands", "study"}}
    compute = run.suspect_card.get("compute")
    return _facts(facts | ({"compute": _compute(compute)} if compute else {}))


def _compute(compute: Card) -> Card:
    """Device, precision and threads as they were, where the study may have said `auto`."""
    precision = str(compute["precision"])
    told = precision if precision == "fp32" else f"{precision} in training and search, fp32 in the assessment"
    return {"device": compute["device"], "precision": told, "threads": compute["threads"]}


def _facts(values: Card) -> list[tuple[str, str]]:
    """Nested facts as lines of name and text; one level of mappings becomes `outer: inner`."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        nested = isinstance(value, dict) and not {"low", "high"} <= value.keys() and "kind" not in value
        if nested:
            lines += [(f"{name_of(str(key))}: {inner}", short(one)) for inner, one in value.items()]
        else:
            lines.append((name_of(str(key)), short(value)))
    return lines
