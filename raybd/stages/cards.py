"""The cards of the stages, each read as what that stage writes: whoever shows them walks through every key."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raybd.artifacts import CARD, Assessment, Study
from raybd.registry import BadInput, as_json, read_card, revive
from raybd.search.confirm import ConfirmedCard
from raybd.search.records import TrialRecord
from raybd.search.space import Space

_SELECTION: Mapping[str, Any] = {
    "number": int,
    "defense": dict[str, Any],
    "setting": dict[str, Any],
    "seeds": list[int],
    "shipped_seed": int,
    "why": str,
    "confirmed": list[dict[str, Any]],
    "training_seconds": float,
    "images": int,
    "study_digest": str,
    "weights_digest": str,
}
_PROMOTION: Mapping[str, Any] = {
    "name": str,
    "alias": str,
    "version": str | None,
    "previous_version": str | None,
    "promoted": bool,
    "refusals": list[str],
    "weights_digest": str,
}


def load_study(folder: Path) -> Study:
    """Return the search's study, every record and its space looked at.

    Raises:
        BadInput: if there is none, or it is damaged.
    """
    study = Study.load(folder)
    try:
        Space.parse(study.space, where="space")
        numbers = {revive(TrialRecord, record).number for record in study.records}
    except BadInput as error:
        raise BadInput(
            f"{folder / CARD}: damaged: {error}. Without this file `raybd search --resume` makes it anew"
        ) from error
    if not numbers.issuperset(study.front):
        raise BadInput(f"{folder / CARD}: damaged: its front has trials without a record")
    return study


def _selection(folder: Path) -> dict[str, Any]:
    card = read_card(folder / CARD, **_SELECTION)
    try:
        for each in card["confirmed"]:
            revive(ConfirmedCard, each)
    except BadInput as error:
        raise BadInput(f"{folder / CARD}: damaged: {error}") from error
    return card


_READERS: Mapping[str, Callable[[Path], Any]] = {
    "search": lambda folder: as_json(load_study(folder)),
    "select": _selection,
    "assess": lambda folder: as_json(Assessment.load(folder)),
    "promote": lambda folder: read_card(folder / CARD, **_PROMOTION),
}


def load_card(folder: Path, word: str) -> Any:
    """Return the card of the stage `word`, which lies in `folder`, as plain JSON.

    Raises:
        BadInput: if there is none, or it is damaged.
    """
    return _READERS[word](folder)
