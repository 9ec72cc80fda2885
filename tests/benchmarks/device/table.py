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
    for name, way in ways.items():
        sizes = {size for other, size in {*found, *missing} if other == name}
        for size in sorted(sizes):
            if (name, size) in found:
                rows.append(_row(found[name, size], plain))
            else:
                rows.append((name, str(size), "-", "", "", "", "", missing[name, size], ""))
        _ = way
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([model, *lines, winner(cells)])


def winner(cells: Sequence[Cell]) -> str:
    """Return one line on what wins: the highest rate among the ways whose figures do not differ from plain's."""
    fit = [cell for cell in cells if cell.settings_per_hour and (cell.way == "plain" or cell.verdict != "differs")]
    if not fit:
        return "wins: nothing was measured"
    best = max(fit, key=lambda cell: cell.settings_per_hour or 0)
    verdict = "the reference" if best.way == "plain" else best.verdict
    return f"wins: {best.way} {best.size}, {best.settings_per_hour:,.0f} settings/h ({verdict})"


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
