"""The nouns of the flow: Suspect, Study, Candidate, Assessment, and how each lies in its folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from raybd.evaluation.assess import Row
from raybd.evaluation.metrics import Difference, Rate
from raybd.evaluation.sequela import Sequela
from raybd.gate import Check
from raybd.registry import BadInput, digest_of, read_card, read_json, revive, write_json
from raybd.suspect import CARD, WEIGHTS, Bench, Suspect, test_looks
from raybd.weights import State, load_weights, save_weights, weights_digest

__all__ = [
    "CARD",
    "WEIGHTS",
    "Assessment",
    "Bench",
    "Candidate",
    "GateRefused",
    "NothingFeasible",
    "Study",
    "Suspect",
    "test_looks",
]
A = TypeVar("A")


class NothingFeasible(Exception):
    """No setting met the limits on the selection split; the message shows the nearest and what to widen."""


class GateRefused(Exception):
    """The candidate failed the gate on the test split; the message names each limit."""


def _revived(cls: type[A], folder: Path) -> A:
    try:
        revived: A = revive(cls, read_json(folder / CARD))
    except BadInput as error:
        raise error if str(folder / CARD) in str(error) else BadInput(f"{folder / CARD}: {error}") from error
    return revived


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """The chosen setting, confirmed with fresh seeds; `states` are its weights per seed, `shown` the ones that ship."""

    card: dict[str, Any]
    states: tuple[State, ...]
    shown: int

    def save(self, folder: Path) -> Self:
        """Write the shipping weights, those of the other seeds, and the card into `folder`."""
        for index, state in enumerate(self.states):
            save_weights(state, folder / "seeds" / str(index) / WEIGHTS)
        save_weights(self.states[self.shown], folder / WEIGHTS)
        write_json(folder / CARD, self.card)
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the candidate in `folder`.

        Raises:
            BadInput: if there is none, or its weights are not those of the card.
        """
        card = read_card(folder / CARD, seeds=list[int], shipped_seed=int, weights_digest=str)
        files = [folder / "seeds" / str(index) / WEIGHTS for index in range(len(card["seeds"]))]
        if card["shipped_seed"] not in card["seeds"]:
            raise BadInput(f"{folder / CARD}: damaged: shipped_seed is none of seeds")
        shown = card["seeds"].index(card["shipped_seed"])
        for path in (folder / WEIGHTS, files[shown]):
            if weights_digest(load_weights(path)) != card["weights_digest"]:
                raise BadInput(f"{path}: its digest is not the card's; the file was changed")
        return cls(card=card, states=tuple(load_weights(path) for path in files), shown=shown)


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What was measured on the test split, and what the gate says of it."""

    suspect: Row
    references: dict[str, Row]
    selected: Row
    never_poisoned: Row | None
    sequela: Sequela
    checks: tuple[Check, ...]
    membership_auc_rise: Difference | None
    test_looks: int
    weights_digest: str

    def save(self, folder: Path) -> Self:
        """Write the card into `folder`."""
        write_json(folder / CARD, self)
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the assessment in `folder`.

        Raises:
            BadInput: if there is none or it is corrupt.
        """
        return _revived(cls, folder)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Every trial of a search, as plain records, and what the search was.

    `front` holds trial numbers; `warm_start` the settings of earlier searches that were tried first. `successors`
    says which samplers took over from `sampler`, and after how many settings.
    """

    records: tuple[dict[str, Any], ...]
    front: tuple[int, ...]
    space: dict[str, Any]
    sampler: str
    seed: int
    trials: int
    suspect_digest: str
    seconds: float
    workers: int
    reference: Rate
    warm_start: tuple[dict[str, Any], ...] = ()
    successors: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The SHA-256 over what was searched and found: a choice made from it is out of date when this changes."""
        return digest_of({"records": self.records, "space": self.space, "suspect": self.suspect_digest})

    def save(self, folder: Path) -> Self:
        """Write the card into `folder`."""
        write_json(folder / CARD, self)
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the study in `folder`.

        Raises:
            BadInput: if there is none or it is corrupt.
        """
        return _revived(cls, folder)
