"""What the README's tables of the paper's cells share: where results lie, and how a cell and its rows are worded."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raybd.attacks import ATTACKS
from raybd.registry import as_json, read_json
from tests.benchmarks.readme_speed import machine

Cell = dict[str, Any]
Cells = dict[str, Cell]
RESULTS = Path(__file__).parent / "results" / "paper"
DATA = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
MOVED = {
    "transfer": "transfer, CIFAR-10 to GTSRB",
    "transfer_fashion": "transfer, Fashion-MNIST's first five classes to its last five",
    "encoder": "encoder, CIFAR-10 to GTSRB",
}
NOTHING = "Not measured yet."


def cells_in(folders: Iterable[str], attacks: Iterable[str]) -> Cells:
    """Return the measured cells, named FOLDER/ATTACK."""
    wanted = {f"{folder}/{attack}": RESULTS / folder / f"{attack}.json" for folder in folders for attack in attacks}
    return {name: read_json(path) for name, path in wanted.items() if path.is_file()}


def per_data(kind: str) -> Cells:
    """Return what was measured once per data set."""
    wanted = {data: RESULTS / f"{kind}_{data}.json" for data in DATA}
    return {data: read_json(path) for data, path in wanted.items() if path.is_file()}


def missing(wanted: Iterable[str], found: Iterable[str], word: str = "measured") -> str:
    """Return the sentence on what is not there; empty where nothing is missing."""
    absent = [title(name) for name in wanted if name not in set(found)]
    return f"Not {word} yet: {'; '.join(absent)}." if absent else ""


def title(name: str) -> str:
    """Return a cell's name, FOLDER/ATTACK, or that of a data set, for a reader."""
    folder, slash, attack = name.partition("/")
    return f"{(DATA | MOVED)[folder]}{', ' if slash else ''}{attack.replace('_', '-')}"


def machines(cells: Cells) -> list[str]:
    """Return on what the cells were measured: which were on another machine than the first is said by name."""
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        found.setdefault(machine(cell), []).append(title(name))
    first, *others = found
    return [first, *(f"{'; '.join(found[other])}: {other[0].lower()}{other[1:]}" for other in others)]


def words(name: str, attack: Cell) -> str:
    """Return a cell's name with the poison ratio and whatever else is not the attack's default."""
    default = as_json(ATTACKS[attack["kind"]](target_label=0))
    ratio = [f"{100 * attack[key]:g} %" for key in ("poison_ratio", "p_attack") if key in attack]
    silent = {"kind", "target_label", "goal", "poison_ratio", "p_attack"}
    other = [f"{key} {value:g}" for key, value in attack.items() if key not in silent and value != default[key]]
    told = ", ".join([*ratio, *other])
    return f"{title(name)} ({told})" if told else title(name)


def percent(rate: dict[str, float]) -> str:
    """Return a rate as a percentage."""
    return f"{100 * rate['rate']:.1f} %"


def row(found: Cell) -> str:
    """Return a row in one cell of a table: points lost, ASR, R-Acc, seconds; in brackets over seeds."""
    asr = percent(found["attack_success_rate"]) + _over_seeds(found, "attack_success_rate")
    accuracy = f"C-Acc {percent(found['clean_accuracy'])}{_over_seeds(found, 'clean_accuracy')}"
    if found["accuracy_drop"] is None:
        return f"{accuracy}, ASR {asr}"
    drop = 100 * found["accuracy_drop"]["value"]
    kept = percent(found["robust_accuracy"])
    return f"lost {drop:.1f} points: {accuracy}, ASR {asr}, R-Acc {kept}, {found['training_seconds']:.0f} s"


def _over_seeds(found: Cell, name: str) -> str:
    spread = found["spread"]
    return f" ({100 * spread[name]['mean']:.1f} ± {100 * spread[name]['sd']:.1f})" if spread else ""


def every_way(cells: Cells, shown: dict[str, str]) -> list[str]:
    """Return the lines of a table with a column for each way of fine-tuning; cells not defended are left out."""
    lines = [
        f"| data, attack | {' | '.join(shown.values())} | feasible trials | goal |",
        "|---" * (len(shown) + 3) + "|",
    ]
    for name, cell in cells.items():
        if "defended" not in cell:
            continue
        found = cell["defended"]
        told = "" if found["met_the_gate_on_selection"] else ", none met the gate's bounds on selection"
        count = f"{found['feasible_trials']} of {len(found['trials'])}{told}"
        texts = [words(name, cell["study"]["attack"]), *(row(found["rows"][key]) for key in shown), count]
        lines.append(f"| {' | '.join(texts)} | {goal(cell)} |")
    return lines


def goal(cell: Cell) -> str:
    """Return whether the tuned row meets the limits of its study, as points on the test split, or by what it fails."""
    tuned, gate = cell["defended"]["rows"]["tuned"], cell["study"]["gate"]
    missed = []
    if tuned["attack_success_rate"]["rate"] > gate["max_attack_success_rate"]:
        missed.append(f"ASR over {100 * gate['max_attack_success_rate']:g} %")
    if tuned["accuracy_drop"]["value"] > gate["max_accuracy_drop"]:
        missed.append(f"loss over {100 * gate['max_accuracy_drop']:g} points")
    return f"missed: {', '.join(missed)}" if missed else "met"
