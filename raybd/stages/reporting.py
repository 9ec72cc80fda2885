"""The stage `report`: gather what every stage has left and hand it to the page."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybd import report
from raybd.artifacts import Suspect
from raybd.defenses import DEFENSES, Defense, FineTuning, SuperFineTuning, reference
from raybd.registry import as_json, build
from raybd.report import Examples, ReportInput
from raybd.settings import StudySettings
from raybd.stages.run_folder import RunFolder, environment

SHOWN = 6
LATER = ("assess", "promote")


def write(settings: StudySettings, suspect: Suspect, folder: RunFolder) -> Path:
    """Write `report.html` and `summary.json` into the run folder; stages that have not run are named as missing."""
    selection = folder.card("select")
    images = len(suspect.bench.splits.clean_set)
    return report.write(
        ReportInput(
            name=settings.name,
            suspect_card=suspect.card(),
            study=folder.card("search"),
            selection=selection,
            assessment=folder.card("assess"),
            promotion=folder.card("promote"),
            schedule=None if selection is None else _rates(build(DEFENSES, selection["defense"], where="card"), images),
            reference_schedules={name: _rates(reference(name), images) for name in settings.references},
            space=settings.load_space().describe(),
            gate=as_json(settings.gate),
            limits={
                "max_attack_success_rate": settings.gate.max_attack_success_rate,
                "max_accuracy_drop": settings.search.max_accuracy_drop,
            },
            examples=_examples(suspect),
            provenance=_provenance(settings, folder),
            references=_executors(settings, folder),
            missing=_missing(folder),
        ),
        folder.path,
    )


def _rates(defense: Defense, clean_images: int) -> list[float]:
    """The learning rate of every step the defense takes on its share of the clean set."""
    if not isinstance(defense, SuperFineTuning | FineTuning):
        return []
    schedule, steps = defense.plan(round(clean_images * defense.clean_fraction))
    return [schedule(step) for step in range(steps)]


def _examples(suspect: Suspect) -> Examples | None:
    """Images of the selection split beside their triggered versions; the report takes no look at test for these."""
    if suspect.bench.trigger is None:
        return None
    selection = suspect.bench.splits.selection
    rows = (
        (suspect.trigger.goal_labels(selection.labels, selection.classes) != selection.labels)
        .nonzero()
        .flatten()[:SHOWN]
    )
    shown = selection.subset(rows)
    triggered = suspect.trigger.apply(shown.images)
    return Examples(clean=shown.images.numpy(), triggered=triggered.numpy(), labels=shown.labels.numpy())


def _provenance(settings: StudySettings, folder: RunFolder) -> dict[str, Any]:
    study, selection = folder.card("search"), folder.card("select")
    return {
        "environment": environment(),
        "seeds": {
            "data": settings.data.seed,
            "search": settings.search.seed,
            "confirmation": [] if selection is None else selection["seeds"],
        },
        "workers": None if study is None else study["workers"],
        "study": settings.resolved(),
        "commands": [f"raybd run {shlex.quote(settings.given)} --runs {shlex.quote(str(folder.path.parent.name))}"],
    }


def _executors(settings: StudySettings, folder: RunFolder) -> tuple[str, ...]:
    """What ran the trials, as ids of the bibliography; the other methods are read from the cards."""
    return ("ray", "tune") if folder.has("search") and settings.resources.executor == "ray" else ()


def _missing(folder: RunFolder) -> Mapping[str, str]:
    note = folder.stage("select") / "nothing_feasible.txt"
    if not note.is_file() or folder.has("select"):
        return {}
    why = note.read_text(encoding="utf-8")
    return {"select": why} | {word: f"Nothing was selected, so there was nothing to {word}." for word in LATER}
