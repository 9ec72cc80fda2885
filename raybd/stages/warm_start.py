"""Warm start: the best settings of earlier searches, on other models, as the first trials of a new one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybd.artifacts import CARD, Study
from raybd.gate import Gate, nearest
from raybd.registry import BadInput, revive
from raybd.search.records import TrialRecord
from raybd.search.space import Space
from raybd.settings import StudySettings
from raybd.stages.cards import load_study

PER_RUN = 4
"""So many settings of an earlier search come first at most."""


def warm_settings(runs: Sequence[Path], space: Space, gate: Gate) -> tuple[dict[str, Any], ...]:
    """Return settings of the fronts of earlier searches that lie inside `space`: run by run, nearest to the gate first.

    Args:
        runs: run folders with a search; each gives its best `PER_RUN` settings at most.
        space: of the new search. What it fixes, and earlier searches did not, is fixed for their settings too.
        gate: of the new study: an earlier front runs from an untouched backdoor to a wreck.

    Raises:
        BadInput: if a folder holds no search, or no setting of its front lies inside the space.
    """
    found: list[dict[str, Any]] = []
    for run in runs:
        found += [setting for setting in _best(run, space, gate) if setting not in found]
    return tuple(setting for setting in found if setting not in space.first)


def check_warm(folder: Path, settings: StudySettings, runs: Sequence[Path]) -> None:
    """Check that the search that lies, done, in `folder` was warmed up from `runs`.

    Raises:
        BadInput: if it was not.
    """
    if list(Study.load(folder).warm_start) != list(warm_settings(runs, settings.load_space(), settings.gate)):
        raise BadInput(f"--warm-start: the search in {folder} is done, and was begun without this; use another name")


def _best(run: Path, space: Space, gate: Gate) -> list[dict[str, Any]]:
    if not (run / "search" / CARD).is_file():
        raise BadInput(f"--warm-start: {run} holds no search; expected a run folder such as runs/NAME")
    study = load_study(run / "search")
    if study.space["defense"] != space.defense:
        raise BadInput(f"--warm-start: {run} searched {study.space['defense']}, this study {space.defense}")
    records = [revive(TrialRecord, record) for record in study.records if record["number"] in study.front]
    settings = [
        _completed(record.setting, study.space["fixed"], space) for record in nearest(records, gate, k=len(records))
    ]
    inside = [setting for setting in settings if setting in space]
    if not inside:
        raise BadInput(f"--warm-start: no setting of the front of {run} lies inside this study's space")
    return inside[:PER_RUN]


def _completed(setting: dict[str, Any], fixed: dict[str, Any], space: Space) -> dict[str, Any]:
    """`setting` in the dimensions of `space`: what is fixed now is left out, what was fixed then is put in."""
    return {name: value for name, value in {**fixed, **setting}.items() if name in space.search}
