"""The README's tables of the paper's attacks on standalone models, and the list of all tables of the paper's cells."""

from raybd.pareto import front
from raybd.registry import read_json
from tests.benchmarks import paper_cells, paper_moved, readme_claims, readme_moved
from tests.benchmarks.readme_cells import (
    DATA,
    NOTHING,
    RESULTS,
    Cell,
    Cells,
    cells_in,
    every_way,
    machines,
    missing,
    per_data,
    percent,
    row,
    title,
    words,
)
from tests.benchmarks.readme_speed import machine

MIN_ASR, MAX_POINTS_LOST, MAX_EXCESS = 0.9, 0.02, 0.03
"""What a suspect is to reach: ASR, accuracy lost against its twin, the trigger's effect on that twin."""
ABOVE = 0.1
"""Rows whose ASR stays above are listed with what was tried."""
SHOWN = {
    "suspect": "suspect",
    "fine_tuning": "conventional fine-tuning",
    "paper": "paper's values",
    "tuned": "**tuned by raybd**",
}


def blocks() -> dict[str, str]:
    """Return every table; what is not measured is named below its table."""
    cells = cells_in(DATA, paper_cells.ATTACKS)
    moved = {k: v for name, case in paper_moved.CASES.items() for k, v in cells_in([name], case.attacks).items()}
    return {
        "paper-undefended": undefended(cells),
        "paper-defended": defended(cells, per_data("longer")),
        "paper-fronts": fronts(cells),
        "paper-others": left_out(per_data("others"), cells),
        "paper-moved": readme_moved.table(moved),
        "paper-clean": never_poisoned(per_data("clean")),
        "paper-claims": readme_claims.table(cells | moved),
    }


def undefended(cells: Cells) -> str:
    """Return the suspects as they came, beside their never-poisoned twins."""
    heads = ["data, attack", "C-Acc", "twin's C-Acc", "ASR", "R-Acc", "twin obeys more by", "last training", "goal"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    refused = []
    for name, cell in cells.items():
        called = words(name, cell["study"]["attack"])
        if "undefended" in cell:
            lines.append(f"| {called} | {_as_it_came(cell['undefended'])} |")
        else:
            refused.append(f"Refused: {called}: {cell['refused']}.")
    wanted = [f"{data}/{attack}" for data in DATA for attack in paper_cells.ATTACKS]
    notes = [*refused, _tried(), missing(wanted, cells), *(machines(cells) if cells else [])]
    return "\n".join([*lines, "", " ".join(filter(None, notes))])


def _as_it_came(found: Cell) -> str:
    suspect, twin, excess = found["rows"]["suspect"], found["rows"]["twin"], found["twin_check"]["excess"]["value"]
    rates = [
        suspect["clean_accuracy"],
        twin["clean_accuracy"],
        suspect["attack_success_rate"],
        suspect["robust_accuracy"],
    ]
    lost = twin["clean_accuracy"]["rate"] - suspect["clean_accuracy"]["rate"]
    missed = [f"ASR under {100 * MIN_ASR:g} %"] * (suspect["attack_success_rate"]["rate"] < MIN_ASR)
    missed += [f"{100 * lost:.1f} points under its twin"] * (lost > MAX_POINTS_LOST)
    missed += [f"the twin obeys {100 * excess:.1f} points more"] * (excess > MAX_EXCESS)
    texts = [*map(percent, rates), f"{100 * excess:+.1f} points", f"{found['training_seconds']:.0f} s"]
    return " | ".join([*texts, f"missed: {', '.join(missed)}" if missed else "met"])


def _tried() -> str:
    """What was planted with other settings, and how far it fell short."""
    texts = []
    for path in sorted((RESULTS / "tried").glob("*.json")):
        cell = read_json(path)
        data, _, attack = cell["study"]["name"].partition("-")
        now, given = (
            paper_cells.study(data, attack, path.parent, trials=1).resolved()["attack"],
            cell["study"]["attack"],
        )
        told = " and ".join(f"{key} {value:g}" for key, value in given.items() if value != now[key])
        if "refused" in cell:
            texts.append(f"{title(f'{data}/{attack}')} with {told} (refused: {cell['refused']})")
            continue
        found = cell["undefended"]["rows"]["suspect"]
        rates = f"C-Acc {percent(found['clean_accuracy'])}, ASR {percent(found['attack_success_rate'])}"
        texts.append(f"{title(f'{data}/{attack}')} with {told} ({rates})")
    return f"Also tried: {'; '.join(texts)}." if texts else ""


def defended(cells: Cells, longer: Cells) -> str:
    """Return every way of fine-tuning against the paper's attacks, and what else was tried where ASR stayed high."""
    lines = every_way(cells, SHOWN)
    wanted = [f"{data}/{attack}" for data in DATA for attack in paper_cells.PAPERS]
    done = {name: cell["defended"] for name, cell in cells.items() if "defended" in cell}
    again = {f"{data}/{attack}": each for data, card in longer.items() for attack, each in card["attacks"].items()}
    high = [name for name, each in done.items() if each["rows"]["tuned"]["attack_success_rate"]["rate"] > ABOVE]
    texts = [f"{title(name)}: {_again(again[name]) if name in again else 'nothing else yet'}" for name in high]
    noted = [f"ASR above {100 * ABOVE:g} %, and what was tried beside it: {'; '.join(texts)}."] if texts else []
    more = [f"{title(name)}: {_again(each)}" for name, each in again.items() if name not in high]
    noted += [f"Searched again as well: {'; '.join(more)}."] if more else []
    return "\n".join([*lines, "", " ".join(filter(None, [*noted, missing(wanted, done, "defended")]))]).rstrip()


def _again(found: Cell) -> str:
    space, count = found["study"]["space"], len(found["trials"])
    return f"{count} trials in `{space}`, {found['feasible_trials']} feasible, the best {row(found['rows']['tuned'])}"


def fronts(cells: Cells) -> str:
    """Return of every search the trials that no other beats in both figures, on the selection split."""
    lines = ["| data, attack | points of C-Acc lost / ASR in %, on selection, one run each |", "|---|---|"]
    for name, cell in cells.items():
        trials = [
            t
            for t in cell.get("defended", {}).get("trials", ())
            if not t["collapsed"] and t["accuracy_drop"] is not None
        ]
        points = [(t["accuracy_drop"], t["attack_success_rate"]) for t in trials]
        best = sorted(points[i] for i in front(points))
        if best:
            told = ", ".join(f"{100 * drop:.1f} / {100 * asr:.1f}" for drop, asr in best)
            lines.append(f"| {title(name)} | {told} |")
    return "\n".join(lines)


def left_out(found: Cells, cells: Cells) -> str:
    """Return what the setting that is best on the other attacks does to the one left out."""
    heads = [
        "data, attack left out",
        "suspect's ASR",
        "best setting of the others",
        "applied to this one",
        "tuned on this one",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for data, each in found.items():
        for attack, one in each["left_out"].items():
            rows = cells[f"{data}/{attack}"]["defended"]["rows"]
            before = percent(rows["suspect"]["attack_success_rate"])
            told = (
                [_setting(one["chosen"]), row(one["row"])]
                if one["row"]
                else ["none keeps every drop inside its limit", "-"]
            )
            lines.append(f"| {' | '.join([title(f'{data}/{attack}'), before, *told, row(rows['tuned'])])} |")
    notes = [missing(DATA, found), *(machine(card) for card in list(found.values())[:1])]
    return "\n".join([*lines, "", " ".join(filter(None, notes))]) if found else NOTHING


def _setting(chosen: Cell) -> str:
    return f"peaks {chosen['lr_max1']:.3g} and {chosen['lr_max2']:.3g}, {chosen['epochs']} epochs"


def never_poisoned(found: Cells) -> str:
    """Return what raybd says of a clean suspect, and what the treatment costs it."""
    heads = ["data", "suspect", "paper's values", "tuned by raybd", "ended", "raybd's verdict"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for data, each in found.items():
        tuned = row(each["selected"]) if each["selected"] else "no candidate"
        rates = [row(each["rows"][name]) for name in ("suspect", "paper")]
        texts = [DATA[data], *rates, tuned, each["ended"].partition(":")[0], each["verdict"]["word"]]
        lines.append(f"| {' | '.join(texts)} |")
    told = [f"Its sentence, on {DATA[data]}: “{each['verdict']['sentence']}”" for data, each in found.items()]
    warned = [f"Its warnings, on {DATA[data]}: “{' '.join(each['warnings'])}”" for data, each in found.items()]
    notes = [*told, *warned, missing(DATA, found), *(machine(card) for card in list(found.values())[:1])]
    return "\n\n".join(["\n".join(lines), *filter(None, notes)]) if found else NOTHING
