"""What a growth measurement comes to: exponents by least squares, ratios of memory, lines of a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, float]


def power_law(xs: Sequence[float], ys: Sequence[float]) -> dict[str, float | int | None]:
    """Fit y = factor * x ** exponent by least squares of the logarithms.

    Args:
        xs: at least two different positive numbers.
        ys: as many positive numbers.

    Returns:
        `exponent`, its `standard_error` (None for two points, which leave no residual), `factor` and `points`.

    Raises:
        ValueError: for numbers that are not positive, or fewer than two different `xs`.
    """
    if len(xs) != len(ys) or len(set(xs)) < 2 or min(*xs, *ys) <= 0:
        raise ValueError(f"a power law needs two different x at least, and positive numbers; got x {xs}, y {ys}")
    x, y = np.log(np.asarray(xs, dtype=float)), np.log(np.asarray(ys, dtype=float))
    exponent, offset = np.polyfit(x, y, 1)
    error = None
    if len(xs) > 2:
        residual = float(np.sum((y - exponent * x - offset) ** 2))
        error = math.sqrt(residual / (len(xs) - 2) / float(np.sum((x - x.mean()) ** 2)))
    return {"exponent": float(exponent), "standard_error": error, "factor": math.exp(offset), "points": len(xs)}


def growth(rows: Sequence[Row], x: str, y: str) -> dict[str, float | int | None] | None:
    """Return the power law of column `y` in column `x`; None where fewer than two rows allow one."""
    usable = [row for row in rows if row[x] > 0 and row[y] > 0]
    if len({row[x] for row in usable}) < 2:
        return None
    return power_law([row[x] for row in usable], [row[y] for row in usable])


def own_cost(rows: Sequence[Row], floor: Sequence[Row]) -> list[dict[str, float]]:
    """Add to each row of a sampler's asks what they cost beyond random's at the same count: `own_seconds`.

    The rest of an ask is the study's: it writes the journal and reads the trials back.
    """
    least = {row["trials"]: row["seconds"] for row in floor}
    return [{**row, "own_seconds": row["seconds"] - least[row["trials"]]} for row in rows if row["trials"] in least]


def memory_ratio(rows: Sequence[Row], *, early: int, late: int) -> float | None:
    """Return memory after `late` trials by that after `early`; None where either was not measured."""
    bytes_after = {row["trials"]: row["bytes"] for row in rows}
    if early not in bytes_after or late not in bytes_after:
        return None
    return bytes_after[late] / bytes_after[early]


def shown(fit: Mapping[str, Any] | None) -> str:
    """Return an exponent in words."""
    if fit is None:
        return "no exponent: fewer than two points"
    error = "" if fit["standard_error"] is None else f" +- {fit['standard_error']:.2f}"
    return f"exponent {fit['exponent']:.2f}{error} over {fit['points']} points"


def table(name: str, part: Mapping[str, Any]) -> list[str]:
    """Return a part's series as lines of text: rows, then the exponents and whatever else was found."""
    lines = [f"== {name}"]
    for title, series in part["series"].items():
        lines.append(f"  {title}")
        lines += ["    " + "  ".join(f"{key} {value:,.4g}" for key, value in row.items()) for row in series["rows"]]
        lines += [f"    {key}: {shown(fit)}" for key, fit in series.get("fits", {}).items()]
    return lines + [f"  {key}: {value}" for key, value in part.items() if key not in ("series", "sizes")]
