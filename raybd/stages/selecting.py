"""The stage `select`: the best settings by the rule, confirmed with fresh seeds; the median seed's weights ship."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybd.artifacts import CARD, Candidate, NothingFeasible, Study, Suspect
from raybd.defenses import Defense
from raybd.files import write_whole
from raybd.registry import BadInput, as_json, describe, revive
from raybd.search import confirm
from raybd.search.confirm import Confirmation, Confirmed
from raybd.search.records import TrialRecord
from raybd.settings import StudySettings
from raybd.stages.execution import Executor
from raybd.stages.jobs import OnDone, run_kept
from raybd.weights import load_weights, weights_digest

NOTE = "nothing_feasible.txt"


def select(
    settings: StudySettings,
    suspect: Suspect,
    study: Study,
    *,
    folder: Path,
    executor: Executor,
    on_done: OnDone | None = None,
) -> Candidate:
    """Choose, confirm and keep the candidate; `on_done` counts the trainings.

    Raises:
        BadInput: if space or suspect are not those of the search.
        NothingFeasible: with the nearest points and what to widen; the reason is kept in the folder too.
    """
    space = settings.load_space()
    if as_json(space.describe()) != study.space or suspect.digest != study.suspect_digest:
        raise BadInput("select: space or suspect have changed since the search; give the changed study another name")
    records = [revive(TrialRecord, record) for record in study.records]
    trainings = folder / "confirm"
    result = confirm.confirm(
        records,
        space=space,
        gate=settings.gate,
        seed=settings.search.seed,
        folder=trainings,
        map_jobs=lambda jobs: run_kept(jobs, executor, on_done),
    )
    result = replace(result, why=f"{_unfinished(study, records)}{result.why}")
    folder.mkdir(parents=True, exist_ok=True)
    if result.winner is None:
        shutil.rmtree(trainings, ignore_errors=True)
        (folder / CARD).unlink(missing_ok=True)
        write_whole(folder / NOTE, result.why)
        raise NothingFeasible(result.why)
    (folder / NOTE).unlink(missing_ok=True)
    winner = result.winner
    states = tuple(load_weights(path) for path in winner.weights)
    card = _card(result, winner, space.build(winner.setting), suspect) | {"study_digest": study.digest}
    card["weights_digest"] = weights_digest(states[winner.shown])
    candidate = Candidate(card=card, states=states, shown=winner.shown).save(folder)
    shutil.rmtree(trainings)
    return candidate


def _unfinished(study: Study, records: Sequence[TrialRecord]) -> str:
    """A word of warning where a search was interrupted and not gone on with; else ''."""
    ended = sum(record.counts for record in records)
    if ended >= study.trials:
        return ""
    return f"The search was not finished: {ended} of its {study.trials} trials are here (`raybd search --resume`). "


def _card(result: Confirmation, winner: Confirmed, defense: Defense, suspect: Suspect) -> dict[str, Any]:
    images = len(defense.training_images(suspect.bench.splits.clean_set, suspect.bench.seed))
    return {
        "number": winner.number,
        "defense": describe(defense),
        "setting": winner.setting,
        "epochs_run": defense.epochs_run(images),
        "seeds": list(winner.seeds),
        "shipped_seed": winner.seeds[winner.shown],
        "why": result.why,
        "confirmed": [_confirmed(each) for each in result.confirmed],
        "training_seconds": winner.training_seconds[winner.shown],
        "images": winner.images[winner.shown],
    }


def _confirmed(each: Confirmed) -> dict[str, Any]:
    """One confirmed setting as plain JSON; a seed that collapsed has no score."""
    plain: dict[str, Any] = as_json(each)
    del plain["weights"]
    return plain | {"scores": [score if math.isfinite(score) else None for score in each.scores]}
