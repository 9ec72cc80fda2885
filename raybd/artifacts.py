"""The nouns of the flow: Suspect, Study, Candidate, Assessment, and how each lies in its folder."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from raybd.data import Augment, ImageSet, Splits
from raybd.evaluation.assess import Row, TestView
from raybd.evaluation.metrics import Difference, Rate
from raybd.evaluation.sequela import Sequela
from raybd.factories import factory_file
from raybd.gate import Check
from raybd.models import Architecture, Classifier
from raybd.registry import BadInput, as_json, describe, digest_of, read_json, revive, write_json
from raybd.scenarios import Victim
from raybd.training import Compute
from raybd.triggers import Trigger
from raybd.weights import State, load_into, load_weights, save_weights, state_of, weights_digest

CARD = "card.json"
WEIGHTS = "weights.safetensors"
TWIN = "never_poisoned.safetensors"
SPLITS = "splits.json"
LOOKS = "test_looks.json"
_MODEL = ("weights_digest", "architecture", "splits", "trigger", "augment", "compute")
_COMPARED = (*_MODEL, "never_poisoned_digest", "poisoned")
A = TypeVar("A")


class NothingFeasible(Exception):
    """No setting met the limits on the selection split; the message shows the nearest and what to widen."""


class GateRefused(Exception):
    """The candidate failed the gate on the test split; the message names each limit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What a study fixes before any model is looked at. `trigger` is None when it is not known."""

    architecture: Architecture
    splits: Splits
    trigger: Trigger | None
    augment: Augment
    compute: Compute
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspect:
    """A model that is, or may be, backdoored, with all that is known of it.

    `how` is `inject` or `adopt`; `knowledge` says what steers the search (planted, given, none); `poisoned` are
    the indices in the training split whose images were poisoned; `facts` go onto the card as they are (attack, twin
    check, warnings, where the weights came from).
    """

    how: str
    bench: Bench
    state: State
    knowledge: str
    twin: State | None = None
    poisoned: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def from_victim(cls, victim: Victim, bench: Bench, facts: dict[str, Any]) -> Self:
        """Return the suspect whose backdoor we planted ourselves."""
        return cls(
            how="inject",
            bench=replace(bench, trigger=victim.planted.trigger),
            state=state_of(victim.planted.model),
            knowledge="planted",
            twin=state_of(victim.twin),
            poisoned=victim.planted.poisoned,
            facts=facts,
        )

    @property
    def trigger(self) -> Trigger:
        """The trigger that steers search and assessment.

        Raises:
            BadInput: if it is unknown.
        """
        if self.bench.trigger is None:
            raise BadInput(
                "trigger: unknown. raybd searches on the attack success rate, so nothing can steer the search "
                "without a trigger yet: give one, for instance as a trigger-inversion tool recovered it"
            )
        return self.bench.trigger

    def model(self) -> Classifier:
        """Return a fresh copy of the suspect's model, in evaluation mode."""
        model = self.bench.architecture.build(0)
        load_into(model, self.state)
        return model

    @property
    def digest(self) -> str:
        """The SHA-256 over model, data, trigger and how they are computed; looks at the test split are outside."""
        card = self.card()
        return digest_of({key: card[key] for key in _MODEL})

    def members(self) -> ImageSet | None:
        """Return training images of the suspect that it saw unpoisoned; None when unknown."""
        splits = self.bench.splits
        if self.how == "adopt":
            return splits.members
        touched = set(self.poisoned)
        return splits.train.subset([i for i in range(len(splits.train)) if i not in touched])

    def test_view(self) -> TestView:
        """Return the test split for the assessment; every call is counted in the suspect's folder."""
        if self.folder is not None:
            write_json(self.folder / LOOKS, {"looks": test_looks(self.folder) + 1})
        bench = self.bench
        return TestView(
            architecture=bench.architecture,
            test=bench.splits.test,
            members=self.members(),
            trigger=self.trigger,
            compute=bench.compute,
        )

    def card(self) -> dict[str, Any]:
        """Return everything about the suspect but its weights, as plain JSON."""
        bench = self.bench
        trigger = bench.trigger
        shape = bench.architecture.shape
        return {
            "how": self.how,
            "architecture": _architecture_card(bench.architecture),
            "weights_digest": weights_digest(self.state),
            "splits": {n: {"images": len(s), "digest": s.digest()} for n, s in _split_sets(bench.splits).items()},
            "split_seed": bench.seed,
            "classes": bench.architecture.classes,
            "shape": list(shape),
            "trigger": None if trigger is None else _trigger_card(trigger, shape),
            "trigger_knowledge": self.knowledge,
            "augment": as_json(bench.augment),
            "compute": as_json(bench.compute),
            "poisoned": len(self.poisoned),
            "never_poisoned_digest": None if self.twin is None else weights_digest(self.twin),
            "warnings": [*bench.splits.warnings, *self.facts.get("warnings", [])],
            "attack": self.facts.get("attack"),
            "twin": self.facts.get("twin"),
            "facts": self.facts,
        }

    def save(self, folder: Path) -> Self:
        """Write weights, splits and card into `folder`; return the suspect that lives there."""
        save_weights(self.state, folder / WEIGHTS)
        if self.twin is not None:
            save_weights(self.twin, folder / TWIN)
        write_json(folder / SPLITS, {"indices": self.bench.splits.indices, "poisoned": list(self.poisoned)})
        write_json(folder / CARD, {**self.card(), "digest": self.digest})
        return replace(self, folder=folder)

    @classmethod
    def load(cls, folder: Path, bench: Bench) -> Self:
        """Return the suspect in `folder`; code, data and trigger come from the study, never from the card.

        Raises:
            BadInput: if files are missing or corrupt, or the study's data or trigger are not those of the card.
        """
        card = _read(folder / CARD, *_COMPARED, "how", "trigger_knowledge", "facts")
        twin = folder / TWIN
        suspect = cls(
            how=card["how"],
            bench=bench,
            state=load_weights(folder / WEIGHTS),
            knowledge=card["trigger_knowledge"],
            twin=load_weights(twin) if twin.is_file() else None,
            poisoned=tuple(_read(folder / SPLITS, "poisoned")["poisoned"]),
            facts=card["facts"],
            folder=folder,
        )
        _same(card, suspect.card(), folder)
        return suspect


def _read(path: Path, *keys: str) -> dict[str, Any]:
    """The mapping in `path`, checked to hold `keys`."""
    held = read_json(path)
    missing = [key for key in keys if not isinstance(held, dict) or key not in held]
    if missing:
        raise BadInput(f"{path}: damaged or of another version; it lacks {', '.join(missing)}")
    return cast("dict[str, Any]", held)


def _revived(cls: type[A], folder: Path) -> A:
    try:
        revived: A = revive(cls, read_json(folder / CARD))
    except BadInput as error:
        raise error if str(folder / CARD) in str(error) else BadInput(f"{folder / CARD}: {error}") from error
    return revived


def _same(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    for key in _COMPARED:
        if old[key] != as_json(new[key]):
            raise BadInput(
                f"{folder / CARD}: {key} is {old[key]}, but study and files now give {new[key]}; "
                "the run folder holds another study, or its files were changed"
            )


def test_looks(folder: Path) -> int:
    """Return how often the test split of the suspect in `folder` was looked at."""
    path = folder / LOOKS
    return int(read_json(path)["looks"]) if path.is_file() else 0


test_looks.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _split_sets(splits: Splits) -> dict[str, ImageSet]:
    sets = {name: getattr(splits, name) for name in ("train", "clean_set", "selection", "test", "members")}
    return {name: images for name, images in sets.items() if images is not None}


def _architecture_card(architecture: Architecture) -> dict[str, Any]:
    """The card's words for an architecture: no folder, which differs from machine to machine, but the user's file."""
    described: dict[str, Any] = as_json(architecture)
    file = factory_file(architecture.factory, architecture.folder) if architecture.factory else None
    digest = None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    kept = {k: v for k, v in described.items() if k not in ("folder", "packages")}
    return {**kept, "factory_file_digest": digest}


def _trigger_card(trigger: Trigger, shape: tuple[int, ...]) -> dict[str, Any]:
    described = {k: Path(v).name if isinstance(v, str) and "/" in v else v for k, v in describe(trigger).items()}
    channels, height, width = shape
    return {**described, "digest": trigger.digest((channels, height, width))}


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
        card = _read(folder / CARD, "seeds", "shipped_seed", "weights_digest")
        files = [folder / "seeds" / str(index) / WEIGHTS for index in range(len(card["seeds"]))]
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
