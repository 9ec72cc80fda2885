"""Seeds that all gave the same figures: a spread of nothing, which confirms nothing, and must say so."""

from raybd.report.contents import Card

ALIKE = (
    "Seeds alike: every seed gave the same figures, so ± 0.0 says nothing of the spread. Where the clean images fit "
    "into one batch, a seed changes little but their order."
)
"""What seeds are worth that all gave the same."""


def seeds_alike(row: Card) -> bool:
    """Whether several seeds of an assessed model gave the same three rates."""
    spreads = list((row["spread"] or {}).values())
    return bool(spreads) and all(spread["seeds"] > 1 and spread["sd"] == 0 for spread in spreads)


def repeated(setting: Card) -> bool:
    """Whether all fresh seeds of a confirmed setting gave the same rates."""
    pairs = zip(setting["clean_accuracy"], setting["attack_success_rate"], strict=True)
    figures = [(accuracy["rate"], success["rate"]) for accuracy, success in pairs]
    return len(figures) > 1 and len(set(figures)) == 1
