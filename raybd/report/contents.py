"""What the report is made of: the plain parts of a run, any of which may be missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

Card = dict[str, Any]
"""One stage's `card.json`, as read: plain JSON."""

STAGES = ("search", "select", "assess", "promote")
"""The stages that may not have run; `ReportInput.missing` is keyed by these words and by `examples`."""


def moved(suspect_card: Card) -> bool:
    """Whether the suspect was trained on another task than the user's (scenarios transfer and encoder)."""
    return bool((suspect_card.get("facts") or {}).get("scenario", "standalone") != "standalone")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A few selection images beside their triggered versions, both uint8 (k, c, h, w), and the true labels (k,)."""

    clean: UInt8[np.ndarray, "k c h w"]
    triggered: UInt8[np.ndarray, "k c h w"]
    labels: Int64[np.ndarray, " k"]


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """The parts of one run, as plain JSON-like values; `None` where a stage has not run.

    Args:
        name: the study's name.
        suspect_card: `Suspect.card()`, the suspect's `card.json`.
        study: `search/card.json`.
        selection: `select/card.json`; None also when nothing was feasible.
        assessment: `assess/card.json`.
        promotion: `promote/card.json`.
        schedule: the chosen setting's learning rate at each step, steps counted from 0.
        reference_schedules: the same for each reference, by name.
        space: the search space as it was resolved.
        gate: the gate's limits by field name; None for a limit not set.
        limits: the search's own two limits, `max_attack_success_rate` and `max_accuracy_drop`: what feasible means.
        examples: images to show, or None.
        provenance: `commands` (list of text), `study` (the study as resolved) and further facts or mappings of
            facts: versions, hardware, seeds.
        references: ids of methods that the cards do not show (`ray`, `tune`); the others are read from the cards.
        missing: why a stage has not run, by stage word, where the caller knows it better than the cards tell.
    """

    name: str
    suspect_card: Card
    study: Card | None = None
    selection: Card | None = None
    assessment: Card | None = None
    promotion: Card | None = None
    schedule: list[float] | None = None
    reference_schedules: Mapping[str, list[float]] = field(default_factory=lambda: MappingProxyType({}))
    space: Card = field(default_factory=dict)
    gate: Card = field(default_factory=dict)
    limits: Card = field(default_factory=dict)
    examples: Examples | None = None
    provenance: Card = field(default_factory=dict)
    references: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def why_missing(self, stage: str) -> str:
        """Say in one sentence why `stage` has left nothing to show."""
        if stage in self.missing:
            return self.missing[stage]
        if stage == "select" and self.study and not any(r["feasible"] for r in self.study["records"]):
            trials = sum(r["state"] != "failed" for r in self.study["records"])
            return f"None of the {trials} trials met both limits of the search, so there was nothing to select."
        return f"Not run: this study has no {stage} card yet. “raybd {stage} STUDY.yaml” makes it."
