"""The README's tables of the paper's attacks, from the cells that `paper_attacks.py` measured."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from raybd.registry import read_json
from tests.benchmarks import paper_cells, paper_moved, readme_claims
from tests.benchmarks.readme_speed import machine

Cell = dict[str, Any]
Cells = dict[str, Cell]
RESULTS = Path(__file__).parent / "results" / "paper"
DATA = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def blocks() -> dict[str, str]:
    """Return the tables of what is measured; a cell that is not is named below its table."""
    cells = _read(DATA, paper_cells.ATTACKS)
    moved = {
        name: cell
        for scenario, attacks in paper_moved.ATTACKS.items()
        for name, cell in _read([scenario], attacks).items()
    }
    tables = {
        "paper-undefended": (undefended, cells),
        "paper-defended": (defended, cells),
        "paper-others": (left_out, _whole("others")),
        "paper-moved": (put_under_another_task, moved),
        "paper-clean": (never_poisoned, _whole("clean")),
        "paper-claims": (readme_claims.table, cells | moved),
    }
    return {name: table(found) for name, (table, found) in tables.items() if found}


def _read(folders: Iterable[str], attacks: Iterable[str]) -> Cells:
    wanted = {f"{folder}/{attack}": RESULTS / folder / f"{attack}.json" for folder in folders for attack in attacks}
    return {name: read_json(path) for name, path in wanted.items() if path.is_file()}


def _whole(kind: str) -> Cells:
    """What was measured once per data set."""
    wanted = {data: RESULTS / f"{kind}_{data}.json" for data in DATA}
    return {data: read_json(path) for data, path in wanted.items() if path.is_file()}


def undefended(cells: Cells) -> str:
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
    notes = [f"Refused: {each}." for each in refused] + [
        _tried(),
        _missing(cells, paper_cells.ATTACKS),
        machine(any_cell),
    ]
    return "\n".join([*rows, "", " ".join(filter(None, notes))])


def _tried() -> str:
    """What was planted with other settings before, and how far it fell short."""
    texts = []
    for path in sorted((RESULTS / "tried").glob("*.json")):
        cell = read_json(path)
        data, _, attack = cell["study"]["name"].partition("-")
        now = paper_cells.study(data, attack, path.parent, trials=1).resolved()["attack"]
        given = [f"{key} {value:g}" for key, value in cell["study"]["attack"].items() if value != now[key]]
        row = cell["undefended"]["rows"]["suspect"]
        rates = f"C-Acc {_percent(row['clean_accuracy'])}, ASR {_percent(row['attack_success_rate'])}"
        texts.append(f"{DATA[data]} {attack.replace('_', '-')} with {' and '.join(given)}: {rates}")
    return f"Tried before: {'; '.join(texts)}." if texts else ""


def _words(name: str, cell: Cell) -> str:
    data, _, attack = name.partition("/")
    given = cell["study"]["attack"]
    ratio = given.get("poison_ratio", given.get("p_attack"))
    return f"{DATA[data]}, {attack.replace('_', '-')} ({100 * ratio:g} %)"


def _missing(cells: Cells, attacks: Any, key: str = "study") -> str:
    missing = [f"{DATA[d]} {a}" for d in DATA for a in attacks if key not in cells.get(f"{d}/{a}", {})]
    return f"Not measured yet: {', '.join(missing)}." if missing else ""


def defended(cells: Cells) -> str:
    """Return every way of fine-tuning against the paper's attacks: C-Acc lost and ASR, with seconds."""
    rows = _every_way(cells, _words, ("suspect", "fine_tuning", "paper", "tuned"))
    return "\n".join([*rows, "", _missing(cells, paper_cells.PAPERS, "defended")]).rstrip()


HEADS = {
    "suspect": "suspect",
    "head": "head only",
    "fine_tuning": "conventional fine-tuning",
    "paper": "paper's values",
    "tuned": "**tuned by raybd**",
}


def _every_way(cells: Cells, words: Callable[[str, Cell], str], shown: Sequence[str]) -> list[str]:
    """The lines of a table with a column for each way of fine-tuning; cells not defended are left out."""
    rows = [f"| data, attack | {' | '.join(HEADS[row] for row in shown)} | feasible trials |"]
    rows.append("|---" * (len(shown) + 2) + "|")
    for name, cell in cells.items():
        if "defended" not in cell:
            continue
        found = cell["defended"]
        texts = [_row(found["rows"][row]) for row in shown]
        told = "" if found["met_the_gate_on_selection"] else ", none met the gate's bounds on selection"
        count = f"{found['feasible_trials']} of {len(found['trials'])}{told}"
        rows.append(f"| {words(name, cell)} | {' | '.join(texts)} | {count} |")
    return rows


def put_under_another_task(cells: Cells) -> str:
    """Return transfer and encoder: every way of fine-tuning, drops counted from what the user would ship."""
    rows = _every_way(cells, _moved_words, tuple(HEADS))
    checks = []
    for name, cell in cells.items():
        if "undefended" not in cell:
            checks.append(f"Refused: {name}: {cell['refused']}.")
            continue
        found, twin = cell["undefended"], cell["undefended"]["rows"]["twin"]
        checks.append(
            f"{_moved_words(name, cell)}: the trigger pulls to label {found['target_label']}; a twin that never saw "
            f"poison, shipped likewise, has C-Acc {_percent(twin['clean_accuracy'])}, ASR "
            f"{_percent(twin['attack_success_rate'])}."
        )
    missing = [f"{s} {a}" for s, each in paper_moved.ATTACKS.items() for a in each if f"{s}/{a}" not in cells]
    notes = [*checks, *([f"Not measured yet: {', '.join(missing)}."] if missing else [])]
    return "\n".join([*rows, "", " ".join(notes), machine(next(iter(cells.values())))])


def _moved_words(name: str, cell: Cell) -> str:
    scenario, _, attack = name.partition("/")
    return f"{scenario}, {attack.replace('_', '-')}"


def left_out(found: Cells) -> str:
    """Return what the setting that is best on the other attacks does to the one left out."""
    rows = [
        "| data, attack left out | suspect's ASR | best setting of the others | applied to this one |",
        "|---" * 4 + "|",
    ]
    for data, each in found.items():
        for attack, one in each["left_out"].items():
            name = f"{DATA[data]}, {attack.replace('_', '-')}"
            if one["row"] is None:
                rows.append(f"| {name} | | none keeps every drop inside its limit | |")
                continue
            chosen = one["chosen"]
            setting = f"peaks {chosen['lr_max1']:.3g} and {chosen['lr_max2']:.3g}, {chosen['epochs']} epochs"
            rows.append(f"| {name} | {_percent(one['suspect'])} | {setting} | {_row(one['row'])} |")
    return "\n".join([*rows, "", machine(next(iter(found.values())))])


def never_poisoned(found: Cells) -> str:
    """Return what raybd says of a clean suspect, and what the treatment costs it."""
    heads = ["data", "C-Acc", "the given trigger's ASR", "paper's values", "tuned by raybd", "ended", "raybd's verdict"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for data, each in found.items():
        suspect, paper = each["suspect"], each["references"]["super_fine_tuning"]
        rates = [_percent(suspect[name]) for name in ("clean_accuracy", "attack_success_rate")]
        texts = [
            DATA[data],
            *rates,
            _row(paper),
            _row(each["selected"]) if each["selected"] else "none",
            each["ended"].partition(":")[0],
        ]
        rows.append(f"| {' | '.join(texts)} | {each['verdict']['word']} |")
    first = next(iter(found.values()))
    told = f"Its sentence, on {DATA[next(iter(found))]}: “{first['verdict']['sentence']}”"
    return "\n".join([*rows, "", told, "", machine(first)])


def _percent(rate: dict[str, float]) -> str:
    return f"{100 * rate['rate']:.1f} %"


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
