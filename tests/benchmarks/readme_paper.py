"""The README's tables of the paper's attacks, from the cells that `paper_attacks.py` measured."""

import json
from pathlib import Path
from typing import Any

from tests.benchmarks import paper_cells
from tests.benchmarks.readme_speed import machine

RESULTS = Path(__file__).parent / "results" / "paper"
DATA = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def blocks() -> dict[str, str]:
    """Return the tables of undefended and of defended figures; a cell not measured yet is named below its table."""
    cells = {path.parent.name + "/" + path.stem: json.loads(path.read_text(encoding="utf-8")) for path in _files()}
    if not cells:
        return {}
    return {"paper-undefended": undefended(cells), "paper-defended": defended(cells)}


def _files() -> list[Path]:
    wanted = [RESULTS / data / f"{attack}.json" for data in DATA for attack in paper_cells.ATTACKS]
    return [path for path in wanted if path.is_file()]


def undefended(cells: dict[str, dict[str, Any]]) -> str:
    """Return the suspects as they came, beside their never-poisoned twins."""
    rows = [
        "| data, attack | C-Acc | twin's C-Acc | ASR | R-Acc | twin obeys more by | last training |",
        "|---" * 7 + "|",
    ]
    refused = []
    for name, cell in cells.items():
        if "undefended" not in cell:
            refused.append(f"{_words(name, cell)}: {cell['refused']}")
            continue
        found, check = cell["undefended"], cell["undefended"]["twin_check"]["excess"]
        suspect, twin = found["rows"]["suspect"], found["rows"]["twin"]
        rates = [suspect["clean_accuracy"], twin["clean_accuracy"], suspect["attack_success_rate"]]
        figures = " | ".join(f"{100 * rate['rate']:.1f} %" for rate in rates)
        rows.append(
            f"| {_words(name, cell)} | {figures} | {100 * suspect['robust_accuracy']['rate']:.1f} % | "
            f"{100 * check['value']:+.1f} points | {found['training_seconds']:.0f} s |"
        )
    any_cell = next(iter(cells.values()))
    notes = [f"Refused: {each}." for each in refused] + [_missing(cells, paper_cells.ATTACKS), machine(any_cell)]
    return "\n".join([*rows, "", " ".join(filter(None, notes))])


def _words(name: str, cell: dict[str, Any]) -> str:
    data, _, attack = name.partition("/")
    given = cell["study"]["attack"]
    ratio = given.get("poison_ratio", given.get("p_attack"))
    return f"{DATA[data]}, {attack.replace('_', '-')} ({100 * ratio:g} %)"


def _missing(cells: dict[str, dict[str, Any]], attacks: Any, key: str = "study") -> str:
    missing = [f"{DATA[d]} {a}" for d in DATA for a in attacks if key not in cells.get(f"{d}/{a}", {})]
    return f"Not measured yet: {', '.join(missing)}." if missing else ""


def defended(cells: dict[str, dict[str, Any]]) -> str:
    """Return every way of fine-tuning against the paper's attacks: C-Acc lost and ASR, with seconds."""
    heads = ["suspect", "conventional fine-tuning", "paper's values", "**tuned by raybd**"]
    rows = [f"| data, attack | {' | '.join(heads)} | feasible trials |", "|---" * 6 + "|"]
    for name, cell in cells.items():
        if "defended" not in cell:
            continue
        found = cell["defended"]
        texts = [_row(found["rows"][row]) for row in ("suspect", "fine_tuning", "paper", "tuned")]
        told = "" if found["met_the_gate_on_selection"] else ", none met the gate's bounds on selection"
        count = f"{found['feasible_trials']} of {len(found['trials'])}{told}"
        rows.append(f"| {_words(name, cell)} | {' | '.join(texts)} | {count} |")
    return "\n".join([*rows, "", _missing(cells, paper_cells.PAPERS, "defended")]).rstrip()


def _row(row: dict[str, Any]) -> str:
    asr, spread = 100 * row["attack_success_rate"]["rate"], row["spread"]
    told = f"ASR {asr:.1f} %" + (f" ({_spread(spread)})" if spread else "")
    if row["accuracy_drop"] is None:
        return f"C-Acc {100 * row['clean_accuracy']['rate']:.1f} %, {told}"
    drop, kept = 100 * row["accuracy_drop"]["value"], 100 * row["robust_accuracy"]["rate"]
    return f"lost {drop:.1f} points, {told}, R-Acc {kept:.1f} %, {row['training_seconds']:.0f} s"


def _spread(spread: dict[str, Any]) -> str:
    rate = spread["attack_success_rate"]
    return f"{100 * rate['mean']:.1f} ± {100 * rate['sd']:.1f}"
