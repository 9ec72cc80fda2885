"""Writes tests/data/hopeless_trials.json: the backdoor when the large peak is past, and at the end, of real trials.

    python -m tests.benchmarks.record_hopeless demo blended resnet
    python -m tests.benchmarks.record_hopeless third_party --data DATA_FOLDER --trials 24

Nothing is stopped. The table grows trial by trial, so that an interrupted recording goes on.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from raybd.defenses.base import Defense
from raybd.evaluation.metrics import Readings, read
from raybd.registry import read_json, write_json
from raybd.search.view import SearchView
from raybd.seeds import derive
from raybd.settings import StudySettings, load_study
from raybd.stages.preparation import bench, search_view
from raybd.stages.suspects import adopted, injected
from tests.benchmarks import third_party
from tests.benchmarks.record_trials import SUSPECTS, settings_over, study_of

TABLE = Path(__file__).parents[1] / "data" / "hopeless_trials.json"


def third_partys(data: Path, folder: Path) -> tuple[StudySettings, SearchView]:
    """Return the third party's study, written into `folder`, and what a search sees of its suspect."""
    settings = load_study(third_party.write_study(folder, data=data, seed=0))
    assert settings.suspect is not None
    weights = settings.folder / settings.suspect.weights
    return settings, search_view(adopted(settings, bench(settings), weights, weights.name))


def planted(suspect: str) -> tuple[StudySettings, SearchView]:
    """Return a digits study and what a search sees of its suspect."""
    settings = study_of(suspect)
    return settings, search_view(injected(settings, bench(settings)))


def trial(view: SearchView, defense: Defense, seed: int) -> dict[str, Any] | None:
    """Run one setting to its end; None where only its end can show whether the backdoor goes."""
    verdict_step = defense.verdict_step(len(defense.training_images(view.clean_set, view.seed)))
    if verdict_step is None:
        return None
    defender = view.defender()
    past: Readings | None = None
    for epoch in defense.sanitize(defender, compute=view.compute, seed=seed, subset_seed=view.seed):
        if past is None and epoch.steps >= verdict_step:
            past = read(defender.model, view.selection, view.trigger, view.compute)
            share = epoch.steps / epoch.total
    if past is None or epoch.collapsed:
        return None
    end = read(defender.model, view.selection, view.trigger, view.compute)
    return {
        "share_past_peak": round(share, 3),
        "asr_past_peak": round(past.attack_success_rate.rate, 4),
        "asr_at_end": round(end.attack_success_rate.rate, 4),
        "clean_accuracy_at_end": round(end.clean_accuracy.rate, 4),
    }


def record(suspect: str, settings: StudySettings, view: SearchView, n: int) -> None:
    """Bring the table of a suspect to `n` settings."""
    space = settings.load_space()
    view = view.on_device()
    for i, setting in enumerate(settings_over(space, n)):
        table = read_json(TABLE) if TABLE.is_file() else {"about": ABOUT, "torch": torch.__version__, "suspects": {}}
        trials = table["suspects"].setdefault(suspect, [])
        if any(kept["setting"] == setting for kept in trials):
            continue
        found = trial(view, space.build(setting), derive(0, "hopeless", i))
        if found is not None:
            trials.append({"setting": setting, **found})
            write_json(TABLE, table)
        sys.stdout.write(f"{suspect} {i + 1}/{n} {found}\n")
        sys.stdout.flush()


ABOUT = (
    "ASR on selection at the end of the first stretch after the verdict step, and at the end, of trials that nothing "
    "stopped; settings whose second peak is the larger, and collapsed ones, are not in it"
)


def main() -> None:
    """Record every suspect asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", nargs="+", choices=[*SUSPECTS, "third_party"])
    parser.add_argument("--trials", type=int, default=96)
    parser.add_argument("--data", type=Path, help="the folder with the third party's model")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        for suspect in options.suspects:
            study = third_partys(options.data, Path(scratch)) if suspect == "third_party" else planted(suspect)
            record(suspect, *study, options.trials)


if __name__ == "__main__":
    main()
