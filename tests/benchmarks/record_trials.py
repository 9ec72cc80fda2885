"""Record real trials of super-fine-tuning on digits suspects: the table that stands in for training in search_quality.

    python -m tests.benchmarks.record_trials demo blended resnet

For each suspect a backdoored model is trained, then settings from a scrambled Sobol sequence over the demo's space are
tried on it, one after the other in this process. No trial is stopped, but each is looked at where a search could have
stopped it: at the rungs of halving, and when the large peak is past. Each suspect has one file in
tests/benchmarks/results/trials/, which grows trial by trial, so an interrupted recording goes on. Its seconds are not a
measurement: other work may be running.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from scipy.stats import qmc

from raybd.data import DefenderView
from raybd.defenses.base import Defense
from raybd.evaluation.metrics import Rate, attack_success_rate
from raybd.registry import BadInput, as_json, read_json
from raybd.search.hopeless import hopeless
from raybd.search.records import Outcome, Reading, Stopping
from raybd.search.rungs import SHARES
from raybd.search.space import Dimension, FloatRange, Space
from raybd.search.trial import attempt, drain
from raybd.search.view import SearchView
from raybd.seeds import derive
from raybd.settings import StudySettings, load_study, parse_study
from raybd.stages.preparation import bench, search_view
from raybd.stages.run_folder import environment
from raybd.stages.suspects import injected
from raybd.training import Epoch

TABLES = Path(__file__).parent / "results" / "trials"
TRIALS = 320
REPEATS = 32
"""So many of the settings run a second time with another seed: no surrogate can know more than the seed leaves."""
SEED = 0
DIGITS_KEPT = 4
"""Settings are rounded to so many significant digits before they are run, so that the table holds what was run."""

SUSPECTS: Mapping[str, dict[str, Any]] = {
    "demo": {},
    "blended": {"attack": {"kind": "blended", "poison_ratio": 0.1, "target_label": 0, "alpha": 0.3}},
    "resnet": {
        "model": {"name": "small_resnet", "arguments": {"width": 8}},
        "attack": {"kind": "badnets", "poison_ratio": 0.05, "target_label": 3, "size": 2, "row": 0, "column": 0},
    },
}
"""How each suspect's study differs from the shipped demo."""

ROWS = ("trials", "repeats")
MEASURED = ("clean_accuracy", "attack_success_rate", "collapsed", "images", "seconds")
AT_RUNG = ("clean_accuracy", "attack_success_rate", "accuracy_drop", "images")
RUNG_COLUMNS = tuple(tuple(f"{name} at {share:.0%}" for name in AT_RUNG) for share in SHARES)
"""For each rung the columns of `AT_RUNG`; null where the trial collapsed before."""
PEAK_COLUMNS = ("attack_success_rate past peak", "images past peak", "hopeless")
"""On all of selection at the verdict step, and whether the sequential test would have stopped the trial there; null
where there is no such step, or the trial collapsed before."""
COLUMNS = (*MEASURED, *(name for names in RUNG_COLUMNS for name in names), *PEAK_COLUMNS)


def study_of(suspect: str) -> StudySettings:
    """Return the study that plants the suspect's backdoor."""
    demo = load_study("demo")
    return parse_study({**demo.resolved(), "name": f"trials-{suspect}", **SUSPECTS[suspect]}, folder=demo.folder)


def rounded(value: Any, dimension: Dimension) -> Any:
    """Return a real number with `DIGITS_KEPT` significant digits, still inside its dimension; others as they are."""
    if not isinstance(dimension, FloatRange):
        return value
    return min(max(float(f"{value:.{DIGITS_KEPT}g}"), dimension.low), dimension.high)


def settings_over(space: Space, n: int) -> Iterator[dict[str, Any]]:
    """Yield `n` settings that fill the space evenly; a larger `n` only adds to the end."""
    sequence = qmc.Sobol(len(space.search), scramble=True, rng=SEED)
    power = max(10, math.ceil(math.log2(n)))  # always 1,024 for a usual n: then its points do not depend on n
    for shares in sequence.random_base2(power)[:n].tolist():
        yield {name: rounded(value, space.search[name]) for name, value in space.at(shares).items()}


class Watched(SearchView):
    """A view that keeps hold of the model of the trial under way, so that it can be looked at from outside."""

    @classmethod
    def of(cls, view: SearchView) -> Self:
        """Return `view`, watched."""
        return cls(**{field.name: getattr(view, field.name) for field in fields(view)})

    def defender(self) -> DefenderView:
        """Return what a real defender holds; its model is the one to look at from now on."""
        held = super().defender()
        object.__setattr__(self, "_model", held.model)
        return held

    def past_peak(self) -> tuple[Rate, bool]:
        """Return the attack success rate now, and whether the trial would be stopped as hopeless."""
        model = self._model  # type: ignore[attr-defined]
        rate = attack_success_rate(model, self.selection, self.trigger, self.compute)
        return rate, hopeless(model, self) is not None


class Looks:
    """What one trial showed on its way; the looks draw no random number, so that it goes on as without them."""

    def __init__(self, view: Watched, defense: Defense) -> None:
        self._view = view
        self._verdict_step = defense.verdict_step(len(defense.training_images(view.clean_set, view.seed)))
        self.rungs: dict[int, Reading] = {}
        self.peak: list[Any] = [None] * len(PEAK_COLUMNS)

    def epoch(self, epoch: Epoch) -> None:
        """Look at the backdoor in the first stretch that ends at or after the verdict step, as a search does."""
        if self._verdict_step is None or not self._verdict_step <= epoch.steps < epoch.total or epoch.collapsed:
            return
        self._verdict_step = None
        rate, stops = self._view.past_peak()
        self.peak = [round(rate.rate, 5), epoch.images, int(stops)]

    def reading(self, reading: Reading) -> str:
        """Keep a reading and let the trial go on."""
        self.rungs[reading.rung] = reading
        return ""

    def columns(self) -> list[Any]:
        """Return the values of `RUNG_COLUMNS`, then those of `PEAK_COLUMNS`."""
        at_rungs = [at_rung(self.rungs.get(rung)) for rung in range(len(SHARES))]
        return [*(value for values in at_rungs for value in values), *self.peak]


def at_rung(reading: Reading | None) -> list[Any]:
    """Return the values of `AT_RUNG`."""
    if reading is None:
        return [None] * len(AT_RUNG)
    figures = (reading.clean_accuracy.rate, reading.attack_success_rate.rate, reading.accuracy_drop.value)
    return [*(round(figure, 5) for figure in figures), reading.images]


def row(setting: dict[str, Any], outcome: Outcome, looks: Looks) -> list[Any]:
    """Return one line of the table: the setting's values, then `COLUMNS`."""
    if outcome.clean_accuracy is None or outcome.attack_success_rate is None:
        raise RuntimeError(f"the trial at {setting} failed: {outcome.error}")
    rates = [round(outcome.clean_accuracy.rate, 5), round(outcome.attack_success_rate.rate, 5)]
    seconds = outcome.training_seconds + outcome.evaluation_seconds
    ended = [*rates, int(outcome.collapsed), outcome.images, round(seconds, 2)]
    return [*setting.values(), *ended, *looks.columns()]


def trial(view: Watched, setting: dict[str, Any], defense: Defense, seed: int) -> list[Any]:
    """Run one setting to its end and return its line of the table."""
    looks = Looks(view, defense)
    running = attempt(view, defense, seed=seed, stopping=Stopping(halving=True))
    return row(setting, drain(running, looks.epoch, looks.reading), looks)


def facts(suspect: str, settings: StudySettings, view: SearchView) -> dict[str, Any]:
    """Return all of a table but its rows."""
    space = settings.load_space()
    return {
        "about": "real trials, to be used as a surrogate; the seconds were taken beside other work",
        "suspect": suspect,
        "study": {key: settings.resolved()[key] for key in ("model", "attack", "training", "data")},
        "space": space.describe(),
        "limits": {
            "max_attack_success_rate": settings.gate.max_attack_success_rate,
            "max_accuracy_drop": settings.search.max_accuracy_drop,
        },
        "gate": as_json(settings.gate),
        "reference_clean_accuracy": view.reference_accuracy.rate,
        "clean_set": len(view.clean_set),
        "selection": len(view.selection),
        "attackable": int(
            (view.trigger.goal_labels(view.selection.labels, view.selection.classes) != view.selection.labels).sum()
        ),
        "compute": as_json(view.compute),
        "environment": environment(),
        "columns": [*space.search, *COLUMNS],
    }


def text_of(table: dict[str, Any]) -> str:
    """Return the table as JSON with one trial a line."""
    head = json.dumps({key: value for key, value in table.items() if key not in ROWS}, indent=1)
    lists = []
    for key in ROWS:
        lines = ",\n".join(json.dumps(trial, separators=(",", ":")) for trial in table[key])
        lists.append(f' "{key}": [\n{lines}\n ]')
    opened = head.removesuffix("}").rstrip()
    return ",\n".join([opened, *lists]) + "\n}\n"


def begun(path: Path, table: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the rows an earlier recording left.

    Raises:
        BadInput: if they are of another suspect or space, whose rows would not belong together.
    """
    if not path.is_file():
        return {key: [] for key in ROWS}
    old = read_json(path)
    for key in ("study", "space", "columns", "reference_clean_accuracy"):
        if old[key] != table[key]:
            raise BadInput(f"{path.name}: recorded with another {key}; move it away to begin anew")
    return {key: old[key] for key in ROWS}


def record(suspect: str, n: int, repeats: int, path: Path) -> None:
    """Bring the table of a suspect to `n` trials, the first `repeats` of them twice."""
    settings = study_of(suspect)
    view = Watched.of(search_view(injected(settings, bench(settings))).on_device())
    table = facts(suspect, settings, view)
    table |= begun(path, table)
    space = settings.load_space()
    drawn = list(settings_over(space, n))
    for key, chosen, stream in (("trials", drawn, "recorded"), ("repeats", drawn[:repeats], "repeated")):
        for i in range(len(table[key]), len(chosen)):
            table[key].append(trial(view, chosen[i], space.build(chosen[i]), derive(SEED, stream, i)))
            path.write_text(text_of(table), encoding="utf-8")
            sys.stdout.write(f"{suspect} {key} {i + 1}/{len(chosen)} {table[key][-1]}\n")
            sys.stdout.flush()


def main() -> None:
    """Record every suspect asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", nargs="+", choices=SUSPECTS)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--tables", type=Path, default=TABLES)
    options = parser.parse_args()
    options.tables.mkdir(parents=True, exist_ok=True)
    for suspect in options.suspects:
        record(suspect, options.trials, options.repeats, options.tables / f"{suspect}.json")


if __name__ == "__main__":
    main()
