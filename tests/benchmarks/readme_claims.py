"""The paper's claims on its scenarios beside our figures: confirmed, refuted or undecided, by one rule for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.paper_cells import MAX_ASR
from tests.benchmarks.paper_moved import CASES
from tests.benchmarks.readme_cells import Cells, title

Rows = dict[str, dict[str, Any]]


def interval(row: dict[str, Any]) -> tuple[float, float]:
    """Return the bounds of a row's ASR: of its 95 % interval, and of its deviation over seeds where that is wider."""
    low, high = row["attack_success_rate"]["low"], row["attack_success_rate"]["high"]
    if row["spread"] is None:
        return low, high
    mean, sd = (row["spread"]["attack_success_rate"][key] for key in ("mean", "sd"))
    return min(low, mean - sd), max(high, mean + sd)


def removed(row: dict[str, Any]) -> bool | None:
    """Return whether the backdoor is gone from a model that still works; None where the interval leaves it open."""
    low, high = interval(row)
    if row["collapsed"] or low > MAX_ASR:
        return False
    return True if high <= MAX_ASR else None


def kept(row: dict[str, Any]) -> bool | None:
    """Return the contrary of `removed`."""
    found = removed(row)
    return None if found is None else not found


def less(row: dict[str, Any], other: dict[str, Any]) -> bool | None:
    """Return whether `row` keeps less of the backdoor than `other`; None where their intervals overlap."""
    if interval(row)[1] < interval(other)[0]:
        return True
    return False if interval(row)[0] > interval(other)[1] else None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim on one scenario, whether it holds for a suspect, and the rows whose ASRs decide it.

    `untreated` is the row in which the backdoor must work, or there is nothing to judge.
    """

    scenario: str
    words: str
    holds: Callable[[Rows], bool | None]
    shown: tuple[str, ...]
    untreated: str = "suspect"


CLAIMS = (
    Claim(
        scenario="standalone",
        words="conventional fine-tuning leaves the backdoor in",
        holds=lambda rows: kept(rows["fine_tuning"]),
        shown=("fine_tuning",),
    ),
    Claim(
        scenario="standalone",
        words="super-fine-tuning at the paper's values removes it",
        holds=lambda rows: removed(rows["paper"]),
        shown=("paper",),
    ),
    Claim(
        scenario="standalone",
        words="super-fine-tuning removes more of it than conventional fine-tuning",
        holds=lambda rows: less(rows["paper"], rows["fine_tuning"]),
        shown=("fine_tuning", "paper"),
    ),
    Claim(
        scenario="transfer",
        words="conventional fine-tuning of the whole model removes it",
        holds=lambda rows: removed(rows["fine_tuning"]),
        shown=("head", "fine_tuning"),
        untreated="head",
    ),
    Claim(
        scenario="transfer",
        words="super-fine-tuning at the paper's values removes it",
        holds=lambda rows: removed(rows["paper"]),
        shown=("head", "paper"),
        untreated="head",
    ),
    Claim(
        scenario="transfer",
        words="super-fine-tuning removes more of it than conventional fine-tuning",
        holds=lambda rows: less(rows["paper"], rows["fine_tuning"]),
        shown=("fine_tuning", "paper"),
        untreated="head",
    ),
    Claim(
        scenario="encoder",
        words="a head trained alone keeps the backdoor",
        holds=lambda rows: kept(rows["head"]),
        shown=("head",),
    ),
    Claim(
        scenario="encoder",
        words="conventional fine-tuning of the whole model removes it, no more is needed",
        holds=lambda rows: removed(rows["fine_tuning"]),
        shown=("head", "fine_tuning"),
    ),
)
"""Second-hand: from the paper's summaries and reviews, not from its own text."""


def judge(held: int, failed: int, of: int) -> str:
    """Return the word: confirmed if a claim holds on every suspect, refuted if it fails on more than half."""
    if of == 0:
        return "undecided: no working backdoor measured"
    word = "undecided"
    if held == of:
        word = "confirmed"
    elif 2 * failed > of:
        word = "refuted"
    return f"{word} (one suspect only)" if of == 1 else word


def table(cells: Cells) -> str:
    """Return one line per claim; `cells` are named SCENARIO/ATTACK or, of standalone models, DATA/ATTACK."""
    lines = [
        "| scenario, claim | | holds / fails / open | ASR that decides it, suspect by suspect |",
        "|---|---|---|---|",
    ]
    for claim in CLAIMS:
        measured = {name: cell["defended"]["rows"] for name, cell in cells.items() if _counts(name, cell, claim)}
        found = [claim.holds(rows) for rows in measured.values()]
        held, failed, open_ = (found.count(word) for word in (True, False, None))
        shown = "; ".join(f"{title(name)} {_figures(rows, claim.shown)}" for name, rows in measured.items())
        word = judge(held, failed, len(found))
        lines.append(f"| {claim.scenario}: {claim.words} | {word} | {held} / {failed} / {open_} | {shown} |")
    return "\n".join(lines)


def _counts(name: str, cell: dict[str, Any], claim: Claim) -> bool:
    """Whether a cell is of the claim's scenario, and the backdoor worked there: over the limit, and over its twin."""
    case = CASES.get(name.partition("/")[0])
    if (case.scenario if case else "standalone") != claim.scenario or "defended" not in cell:
        return False
    low, _ = interval(cell["defended"]["rows"][claim.untreated])
    return bool(low > max(MAX_ASR, cell["undefended"]["rows"]["twin"]["attack_success_rate"]["high"]))


def _figures(rows: Rows, shown: tuple[str, ...]) -> str:
    return " → ".join(_asr(rows[row]) for row in shown)


def _asr(row: dict[str, Any]) -> str:
    spread = row["spread"]
    if spread is None:
        return f"{100 * row['attack_success_rate']['rate']:.1f} %"
    return "{:.1f} ± {:.1f} %".format(*(100 * spread["attack_success_rate"][key] for key in ("mean", "sd")))
