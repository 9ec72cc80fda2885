"""How long a setting really runs: super-fine-tuning rounds the epochs that were asked for up to whole cycles."""

from collections.abc import Mapping
from typing import Any

from raybd.defenses import DEFENSES
from raybd.registry import build
from raybd.report.contents import Card

ROUNDED = "super_fine_tuning"
"""The defense whose `epochs` may be more than was asked for."""


def clean_images(suspect_card: Card) -> int:
    """Return how many images the defender holds."""
    return int(suspect_card["splits"]["clean_set"]["images"])


def epochs_words(setting: Mapping[str, Any], images: int) -> str | None:
    """Return a complete setting's epochs as `6 (20 run)`; None where as many are run as were asked for.

    Args:
        setting: a defense as a mapping, with its `kind`.
        images: of the clean set.
    """
    if setting.get("kind") != ROUNDED:
        return None
    defense = build(DEFENSES, setting, where="setting")
    return words_of(setting["epochs"], defense.epochs_run(round(images * defense.clean_fraction)))


def words_of(asked: float, run: float | None) -> str | None:
    """Return `6 (20 run)` for 6 epochs of which 20 were made; None where they are the same, or not counted."""
    return None if run is None or run == asked else f"{asked:g} ({run:.3g} run)"


def told(setting: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Return a complete setting as a reader should see it: with the epochs that are really run."""
    words = epochs_words(setting, images)
    return {**setting, "epochs": words} if words else dict(setting)
