"""The printed table: every cell by model, what could not be measured and why, and what wins."""

from collections.abc import Mapping, Sequence

from tests.benchmarks.device.cells import Cell
from tests.benchmarks.device.ways import Way

HEADS = ("way", "size", "settings/h", "x plain", "steps/s", "prepare s", "GB", "this way / plain", "verdict")


def table(model: str, cells: Sequence[Cell], missing: Mapping[tuple[str, int], str], ways: Mapping[str, Way]) -> str:
    """Return the table of one model.

    Args:
        model: its name.
        cells: the measured cells of this model.
        missing: why a (way, size) was not measured.
        ways: the table of ways, for their order.
    """
    found = {(cell.way, cell.size): cell for cell in cells}
    plain = found.get(("plain", 1))
    rows = [HEADS]
    for name in ways:
        sizes = {size for other, size in {*found, *missing} if other == name}
        for size in sorted(sizes):
            if (name, size) in found:
                rows.append(_row(found[name, size], plain))
            else:
                rows.append((name, str(size), "-", "", "", "", "", missing[name, size], ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([model, *lines, winner(cells)])


def winner(cells: Sequence[Cell]) -> str:
    """Return one line on what wins: the highest rate among plain and the ways whose figures were found equal to it."""
    measured = [cell for cell in cells if cell.settings_per_hour]
    fit = [cell for cell in measured if cell.way == "plain" or cell.verdict == "equal"]
    if not fit:
        return "wins: nothing was measured and checked"
    best = max(fit, key=_rate)
    verdict = "the reference" if best.way == "plain" else best.verdict
    said = f"wins: {best.way} {best.size}, {_rate(best):,.0f} settings/h ({verdict})"
    open_ones = [cell for cell in measured if cell not in fit and cell.verdict in ("not checked", "undecided")]
    first = max(open_ones, key=_rate, default=None)
    if first is None or _rate(first) <= _rate(best):
        return said
    return f"{said}; faster, but {first.verdict}: {first.way} {first.size}, {_rate(first):,.0f} settings/h"


def _rate(cell: Cell) -> float:
    return cell.settings_per_hour or 0.0


def _row(cell: Cell, plain: Cell | None) -> tuple[str, ...]:
    if cell.settings_per_hour is None:
        return cell.way, str(cell.size), "-", "", "", "", "", cell.error[:60], ""
    base = plain.settings_per_hour if plain else None
    return (
        cell.way,
        str(cell.size),
        f"{cell.settings_per_hour:,.0f}",
        f"{cell.settings_per_hour / base:.2f}" if base else "",
        f"{cell.steps_per_second:,.0f}",
        f"{cell.prepare_seconds:.1f}",
        "" if cell.memory_gb is None else f"{cell.memory_gb:.1f}",
        "; ".join(_figures(cell)),
        "reference" if cell.way == "plain" else cell.verdict,
    )


def _figures(cell: Cell) -> list[str]:
    names = {"clean_accuracy": "C-Acc", "attack_success_rate": "ASR", "loss": "loss", "distance": "moved"}
    texts = []
    for one in cell.comparisons:
        scale, unit = (100, " %") if one.figure in ("clean_accuracy", "attack_success_rate") else (1, "")
        texts.append(f"{names[one.figure]} {scale * one.way:.2f} / {scale * one.plain:.2f}{unit} ({one.jobs} jobs)")
    return texts
