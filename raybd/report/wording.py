"""Numbers and names as a reader sees them: percentages with intervals, points, counts, settings, labels."""

from collections.abc import Mapping
from typing import Any

MISSING = "\u2013"
NBSP = "\u00a0"
MINUS = "\u2212"

NAMES = {
    "suspect": "suspect",
    "candidate": "candidate",
    "never_poisoned": "never-poisoned twin",
    "fine_tuning:head": "fine-tuning, head only",
    "super_fine_tuning": "super-fine-tuning, paper's values",
    "fine_tuning": "conventional fine-tuning",
    "attack_success_rate": "attack success rate",
    "accuracy_drop": "clean accuracy lost",
    "class_accuracy_drop": "accuracy lost by one class",
    "membership_auc_rise": "rise of membership AUC",
    "clean_set": "clean set",
    "reference_model": "what the row 'suspect' measures",
    "upstream": "on the task it was trained for",
}


def name_of(key: str) -> str:
    """Return the words for a model, reference, check or split: `fine_tuning` -> `conventional fine-tuning`."""
    known = NAMES.get(key.removeprefix("max_"))
    if known:
        return known
    method, _, preset = key.partition(":")
    if preset:
        return f"{method.replace('_', '-')}, {preset} values"
    return key.replace("_", " ")


def decimal(value: float | None, digits: int = 1) -> str:
    """Return `value` with a true minus sign and without a negative zero; a dash for None."""
    if value is None:
        return MISSING
    rounded = round(value, digits) + 0.0
    return f"{rounded:,.{digits}f}".replace("-", MINUS)


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, without the sign: 0.979 -> `97.9`."""
    return decimal(None if fraction is None else 100 * fraction, digits)


def bracket(interval: Mapping[str, Any]) -> str:
    """Return the 95 % interval of a Rate or Difference in percent: `[97.4, 98.3]`."""
    return f"[{percent(interval['low'])},{NBSP}{percent(interval['high'])}]"


def bracket_plain(interval: Mapping[str, Any]) -> str:
    """Return the interval of an AUC or of a difference of two AUCs: `[0.512, 0.541]`."""
    return f"[{decimal(interval['low'], 3)},{NBSP}{decimal(interval['high'], 3)}]"


def with_interval(rate: Mapping[str, Any] | None) -> str:
    """Return a Rate as one phrase: `97.9 % [97.4, 98.3]`; a dash for None."""
    return MISSING if rate is None else f"{percent(rate['rate'])}{NBSP}%{NBSP}{bracket(rate)}"


def points(difference: Mapping[str, Any] | None) -> str:
    """Return a Difference of two rates in percentage points: `1.3 [0.6, 2.0]`; a dash for None."""
    return MISSING if difference is None else f"{percent(difference['value'])}{NBSP}{bracket(difference)}"


def count(number: float | None) -> str:
    """Return a whole number with separators: 128000 -> `128,000`; a dash for None."""
    return MISSING if number is None else f"{number:,.0f}"


def seconds(duration: float | None) -> str:
    """Return a duration in the unit a person would use: `0.42 s`, `12.3 s`, `4 min 10 s`, `2 h 05 min`."""
    if duration is None:
        return MISSING
    if duration < 120:
        return f"{duration:.2f} s" if duration < 1 else f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short(value: Any) -> str:
    """Return any plain value as text: three significant digits for a float, `yes` and `no` for a boolean."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(short(v) for v in value)
    if isinstance(value, Mapping):
        return _short_mapping(value)
    return str(value)


def _short_mapping(value: Mapping[str, Any]) -> str:
    if {"rate", "low", "high"} <= value.keys():
        return f"{with_interval(value)} (n = {count(value.get('n'))})"
    if {"value", "low", "high"} <= value.keys():
        return f"{points(value)} points (n = {count(value.get('n'))})"
    return setting(value)


def setting(values: Mapping[str, Any] | None) -> str:
    """Return a setting or component as one line: `lr_base 0.0003 · epochs 6`; its kind comes first, bare."""
    if values is None:
        return MISSING
    parts = [f"{key} {short(value)}" for key, value in values.items() if key != "kind"]
    return " · ".join(([str(values["kind"])] if "kind" in values else []) + parts)


def digest(text: str | None) -> str:
    """Return the first twelve characters of a digest: enough to compare by eye."""
    return MISSING if text is None else text[:12]


def plain(text: str) -> str:
    """Return `text` for a terminal or log: ordinary spaces, hyphens for minus signs."""
    return text.replace(NBSP, " ").replace(MINUS, "-").replace(MISSING, "-")
