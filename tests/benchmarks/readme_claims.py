"""The paper's claims on its scenarios beside our figures: confirmed, refuted or undecided, by one rule for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Cells = dict[str, dict[str, Any]]
Rows = dict[str, dict[str, Any]]
GONE = 0.05
"""A backdoor counts as removed up to this ASR, the limit of the studies' gate."""


def rate(row: dict[str, Any]) -> float:
    """Return a row's ASR, the mean over its seeds where it has several."""
    return float(row["spread"]["attack_success_rate"]["mean"] if row["spread"] else row["attack_success_rate"]["rate"])


def gone(row: dict[str, Any]) -> bool:
    """Whether the backdoor is removed."""
    return rate(row) <= GONE


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim on one scenario, when it holds for a suspect, and the ASRs that decide it, in this order."""

    scenario: str
    words: str
    holds: Callable[[Rows], bool]
    shown: tuple[str, ...]


CLAIMS = (
    Claim(
        scenario="standalone",
        words="conventional fine-tuning leaves the backdoor in",
        holds=lambda rows: not gone(rows["fine_tuning"]),
        shown=("fine_tuning",),
    ),
    Claim(
        scenario="standalone",
        words="super-fine-tuning at the paper's values removes it",
        holds=lambda rows: gone(rows["paper"]),
        shown=("paper",),
    ),
    Claim(
        scenario="standalone",
        words="super-fine-tuning removes more of it than conventional fine-tuning",
        holds=lambda rows: rate(rows["paper"]) < rate(rows["fine_tuning"]),
        shown=("fine_tuning", "paper"),
    ),
    Claim(
        scenario="transfer",
        words="conventional fine-tuning of the whole model removes it",
        holds=lambda rows: gone(rows["fine_tuning"]),
        shown=("fine_tuning",),
    ),
    Claim(
        scenario="transfer",
        words="super-fine-tuning at the paper's values removes it",
        holds=lambda rows: gone(rows["paper"]),
        shown=("paper",),
    ),
    Claim(
        scenario="encoder",
        words="a head trained alone keeps the backdoor",
        holds=lambda rows: not gone(rows["head"]),
        shown=("head",),
    ),
    Claim(
        scenario="encoder",
        words="conventional fine-tuning of the whole model removes it, no more is needed",
        holds=lambda rows: gone(rows["fine_tuning"]),
        shown=("fine_tuning",),
    ),
)
"""Second-hand: the paper's summaries and reviews, not its own text."""


def judge(held: int, of: int) -> str:
    """Return the word: a claim is confirmed if it holds on every suspect, refuted if on fewer than half."""
    if of == 0:
        return "undecided"
    return "confirmed" if held == of else "refuted" if 2 * held < of else "undecided"


def table(cells: Cells) -> str:
    """Return one line per claim; `cells` are named SCENARIO/ATTACK or, of standalone models, DATA/ATTACK."""
    lines = ["| scenario, claim | | holds on | ASR that decides it, suspect by suspect |", "|---|---|---|---|"]
    for claim in CLAIMS:
        measured = {
            n: c["defended"]["rows"] for n, c in cells.items() if "defended" in c and _scenario(n) == claim.scenario
        }
        held = sum(claim.holds(rows) for rows in measured.values())
        shown = ", ".join(_figures(name, rows, claim.shown) for name, rows in measured.items())
        word = judge(held, len(measured))
        lines.append(f"| {claim.scenario}: {claim.words} | {word} | {held} of {len(measured)} | {shown} |")
    return "\n".join(lines)


def _scenario(name: str) -> str:
    first = name.partition("/")[0]
    return first if first in {"transfer", "encoder"} else "standalone"


def _figures(name: str, rows: Rows, shown: tuple[str, ...]) -> str:
    first, _, attack = name.partition("/")
    data = {"fashion_mnist": "Fashion-MNIST ", "cifar10": "CIFAR-10 "}.get(first, "")
    return f"{data}{attack.replace('_', '-')} {' → '.join(f'{100 * rate(rows[row]):.1f} %' for row in shown)}"
