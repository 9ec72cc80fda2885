"""What is written to MLflow, as plain data: a record per run, batch or model, to be sent or to wait."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybd.registry import digest_of

TAG = "raybd.record"
_PARAM_LIMIT, _TAG_LIMIT = 6000, 8000  # characters that MLflow takes


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a run; `step` orders the points of a curve."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Record:
    """One thing to deliver exactly once.

    `key` is unique to it and travels as the tag `raybd.record`. A `child` becomes a run of its own, a `parent`
    is written into the run folder's own run, a `model` is the MLflow model in `folder`. `files` are paths,
    `texts` whole contents, both by artifact name; paths count from the run folder, which may have moved before they
    are sent. Times are milliseconds since 1970, fixed when the record is made, so that sending it twice writes the
    same points.
    """

    key: str
    kind: str
    name: str
    status: str = "FINISHED"
    started: int
    ended: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: tuple[Figure, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    folder: str | None = None


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def figures(value: Any, name: str = "") -> Iterator[Figure]:
    """Yield every finite number in nested mappings, named by its path; truth values are not numbers here."""
    if isinstance(value, Mapping):
        main = next((k for k in ("rate", "value") if k in value), None)
        for key, inner in value.items():
            yield from figures(inner, name if key == main else _joined(name, str(key), "_" if main else "."))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield Figure(name=_plain(name), value=float(value))


def _joined(name: str, key: str, by: str) -> str:
    return f"{name}{by}{key}" if name else key


def as_params(values: Mapping[str, Any], name: str = "") -> dict[str, str]:
    """Return nested plain data as MLflow parameters, one per leaf."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        path = _plain(_joined(name, str(key), "."))
        if isinstance(value, Mapping) and value:
            flat |= as_params(value, path)
        else:
            flat[path] = _short(value, _PARAM_LIMIT)
    return flat


def as_tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as MLflow tags; truth values read `true` and `false`, None and "" are left out."""
    kept = {key: value for key, value in values.items() if value not in (None, "")}
    return {_plain(key): _short(value, _TAG_LIMIT) for key, value in kept.items()}


def _plain(name: str) -> str:
    return re.sub(r"[^\w\-./ ]", "_", name)  # the characters MLflow takes on every system


def _short(value: Any, limit: int) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def split_artifacts(artifacts: Mapping[str, str | Path], run_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return artifacts as contents (text) and as paths from the run folder (files), both by name.

    Raises:
        ValueError: if a path lies outside the run folder.
    """
    home = run_dir.absolute()  # not resolved: a stage's folder may be a link to another disk
    texts = {name: value for name, value in artifacts.items() if isinstance(value, str)}
    paths = {name: value for name, value in artifacts.items() if isinstance(value, Path)}
    return texts, {name: path.absolute().relative_to(home).as_posix() for name, path in paths.items()}


def trial_record(run_key: str, trial: Mapping[str, Any]) -> Record:
    """Return the child run of one trial of the search, given as `search/card.json` holds it."""
    seconds = float(trial["training_seconds"] or 0) + float(trial["evaluation_seconds"] or 0)
    ended = now()
    rates = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "accuracy_drop")
    costs = ("training_seconds", "evaluation_seconds", "steps", "images")
    facts = ("state", "feasible", "collapsed", "reason", "worker", "error")
    # A search begun afresh in the same folder has other trials of the same numbers.
    same = digest_of([trial["setting"], trial["seed"]])[:8]
    return Record(
        key=f"{run_key}:trial:{trial['number']}:{same}",
        kind="child",
        name=f"trial-{trial['number']}",
        status="FAILED" if trial["state"] == "failed" else "FINISHED",
        started=ended - int(seconds * 1000),
        ended=ended,
        params=as_params({**trial["setting"], "seed": trial["seed"]}),
        tags=as_tags({"raybd.kind": "trial", **{f"raybd.{fact}": trial.get(fact) for fact in facts}}),
        metrics=tuple(figures({name: trial.get(name) for name in (*rates, *costs)})),
    )


def row_record(run_key: str, name: str, row: Mapping[str, Any], text: str) -> Record:
    """Return the child run of one row of the assessment; `text` is the whole row as JSON, per class too."""
    figures_only = {k: v for k, v in row.items() if k not in ("setting", "per_class", "training_seconds")}
    seconds, ended = float(row.get("training_seconds") or 0), now()
    return Record(
        key=f"{run_key}:row:{name}:{digest_of([figures_only, row.get('setting')])[:8]}",
        kind="child",
        name=name,
        started=ended - int(seconds * 1000),
        ended=ended,
        params=as_params(row.get("setting") or {}),
        tags=as_tags({"raybd.kind": "assessment", "raybd.collapsed": row.get("collapsed")}),
        metrics=tuple(figures({**figures_only, "training_seconds": seconds})),
        texts={"row.json": text},
    )


def sequela_figures(sequela: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Return the sequela as metrics; a re-injection curve is one metric whose steps are poisoned samples."""
    again = sequela.get("reinjection") or {}
    points = [
        Figure(name=f.name, value=f.value, step=int(samples))
        for who, curve in (again.get("curves") or {}).items()
        for samples, rate in zip(again["poisoned_samples"], curve or [], strict=False)
        for f in figures({f"reinjection.{who}": rate})
    ]
    return (*figures({"membership": sequela.get("membership")}), *points)
