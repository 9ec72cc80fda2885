"""The suspect: a model that is, or may be, backdoored, with all that is known of it, and how it lies in its folder."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch

from raybd.data import Augment, ImageSet, Splits
from raybd.evaluation.assess import TestView
from raybd.evaluation.twin import TwinCheck
from raybd.factories import factory_file
from raybd.models import Architecture, Classifier
from raybd.registry import BadInput, as_json, check_type, describe, digest_of, nearest, read_card, write_json
from raybd.scenarios import Victim
from raybd.training import Compute
from raybd.triggers import Learned, Trigger, learnt
from raybd.weights import State, check_finite, load_into, load_weights, save_weights, state_of, weights_digest

CARD = "card.json"
WEIGHTS = "weights.safetensors"
TWIN = "never_poisoned.safetensors"
REFERENCE = "reference.safetensors"
TRIGGER = "trigger.safetensors"
POISONED = "poisoned.safetensors"
SPLITS = "splits.json"
LOOKS = "test_looks.json"
_MODEL = ("weights_digest", "architecture", "splits", "trigger", "augment", "compute")
_READ: Mapping[str, Any] = {
    "how": Literal["inject", "adopt"],
    "trigger_knowledge": Literal["planted", "given", "none"],
    "facts": dict[str, Any],
}
_FACTS: Mapping[str, Any] = {
    "origin": str,
    "scenario": str,
    "reference_model": str,
    "attack": dict[str, Any],
    "training": dict[str, Any],
    "training_seconds": float,
    "twin": TwinCheck,
    "upstream": dict[str, Any],
    "warnings": list[str],
    "poisoned_digest": str | None,
}
"""What is read from a card, rather than compared with the study; and the facts on it, each with its type."""
_COMPARED = (*_MODEL, "never_poisoned_digest", "reference_digest", "poisoned")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What a study fixes before any model is looked at. `trigger` is None when it is not known.

    `trial_compute` is how trials compute where that is otherwise than here: on a cluster whose head has no GPU.
    """

    architecture: Architecture
    splits: Splits
    trigger: Trigger | None
    augment: Augment
    compute: Compute
    seed: int
    trial_compute: Compute | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspect:
    """A model that is, or may be, backdoored, with all that is known of it.

    Attributes:
        how: `inject` or `adopt`.
        bench: the data, the trigger, and how the model is built and computed.
        state: its weights, from which every defense begins.
        knowledge: what steers the search (planted, given, none).
        reference: the weights of what the user would ship without a defense; None where that is the suspect itself.
        twin: the weights of the never-poisoned model, as the user would ship that.
        poisoned: places in the training split whose images were poisoned.
        covers: places in the training split whose images carry the trigger, or one like it, under their true label.
        made: the poisoned images themselves, where they cannot be made again from the attack's fields alone.
        facts: go onto the card as they are (attack, twin check, warnings, where the weights came from).
        folder: where it lives, once it is saved.
    """

    how: str
    bench: Bench
    state: State
    knowledge: str
    reference: State | None = None
    twin: State | None = None
    poisoned: tuple[int, ...] = ()
    covers: tuple[int, ...] = ()
    made: ImageSet | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def from_victim(cls, victim: Victim, bench: Bench, facts: dict[str, Any], *, makes_images: bool = False) -> Self:
        """Return the suspect whose backdoor we planted ourselves; `makes_images` keeps its poisoned images."""
        planted = victim.planted
        chosen = None if planted.training_set is None else planted.training_set.subset(planted.poisoned)
        digest = {"poisoned_digest": None if chosen is None else chosen.digest()}
        return cls(
            how="inject",
            bench=replace(bench, trigger=planted.trigger),
            state=state_of(planted.model),
            knowledge="planted",
            twin=state_of(victim.twin),
            poisoned=planted.poisoned,
            covers=planted.covers,
            made=chosen if makes_images else None,
            facts=facts | digest,
        )

    @property
    def counted(self) -> bool:
        """Whether `poisoned` and `covers` are all there is: an attack that draws them batch by batch leaves none.

        Under another task they are: nothing was poisoned of the user's own images.
        """
        # Suspects saved before this was told lack the fact, and count.
        return self.reference is not None or self.facts.get("poisoned_digest", "") is not None

    @property
    def shipped(self) -> State:
        """The weights of what the user would ship without a defense: those of the reference model."""
        return self.state if self.reference is None else self.reference

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
        """Return a fresh copy of the reference model, what the user would ship as it is, in evaluation mode."""
        model = self.bench.architecture.build(0)
        load_into(model, self.shipped)
        return model

    @property
    def digest(self) -> str:
        """The SHA-256 over model, data, trigger and how they are computed; looks at the test split are outside."""
        card = self.card()
        downstream = {} if self.reference is None else {"reference": card["reference_digest"]}
        return digest_of({key: card[key] for key in _MODEL} | downstream)

    def members(self) -> ImageSet | None:
        """Return training images of the suspect that it saw unpoisoned; None when unknown, or of another task.

        Where an attack draws what it poisons anew in each step, that is all of them: see `members_words`.
        """
        splits = self.bench.splits
        if self.how == "adopt" or self.reference is not None:
            return splits.members
        touched = set(self.poisoned) | set(self.covers)
        return splits.train.subset([i for i in range(len(splits.train)) if i not in touched])

    @property
    def members_words(self) -> str:
        """What `members` are, in words: a reader must know whether the suspect saw them with a trigger, too."""
        if self.how == "adopt":
            return "training images of the suspect, as the study names them"
        if not self.counted:
            return (
                "training images of the suspect; which of them were poisoned was drawn anew in each step, so any may "
                "have been seen both clean and with a trigger"
            )
        return "training images of the suspect, without those that the attack changed"

    def test_view(self) -> TestView:
        """Return the test split for the assessment; every call is counted in the suspect's folder."""
        if self.folder is not None:
            write_json(self.folder / LOOKS, {"looks": test_looks(self.folder) + 1})
        bench = self.bench
        return TestView(
            architecture=bench.architecture,
            test=bench.splits.test,
            members=self.members(),
            members_are=self.members_words,
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
            "poisoned": len(self.poisoned) if self.counted else None,
            "covers": len(self.covers) if self.counted else None,
            "reference_digest": None if self.reference is None else weights_digest(self.reference),
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
        if self.reference is not None:
            save_weights(self.reference, folder / REFERENCE)
        if self.made is not None:
            held = {"images": self.made.images, "labels": self.made.labels, "classes": torch.tensor(self.made.classes)}
            save_weights(held, folder / POISONED)
        if self.how == "inject" and isinstance(self.bench.trigger, Learned):
            self.bench.trigger.save(folder / TRIGGER)
        changed = {"poisoned": list(self.poisoned), "covers": list(self.covers)}
        write_json(folder / SPLITS, {"indices": self.bench.splits.indices, **changed})
        write_json(folder / CARD, {**self.card(), "digest": self.digest})
        return replace(self, folder=folder)

    @classmethod
    def load(cls, folder: Path, bench: Bench) -> Self:
        """Return the suspect in `folder`; code, data and trigger come from the study, never from the card.

        Raises:
            BadInput: if files are missing or corrupt, or the study's data or trigger are not those of the card.
        """
        card = read_card(folder / CARD, *_COMPARED, **_READ)
        _check_facts(card["facts"], folder)
        made = _images(folder / POISONED, card["facts"])
        changed = read_card(folder / SPLITS, poisoned=list[int], covers=list[int])
        suspect = cls(
            how=card["how"],
            bench=bench,
            state=_finite(folder / WEIGHTS),
            knowledge=card["trigger_knowledge"],
            reference=_loaded(folder / REFERENCE),
            twin=_loaded(folder / TWIN),
            poisoned=tuple(changed["poisoned"]),
            covers=tuple(changed["covers"]),
            made=made,
            facts=card["facts"],
            folder=folder,
        )
        _same(card, suspect.card(), folder)
        return suspect


def planted_trigger(folder: Path) -> Trigger | None:
    """Return the trigger that an attack learnt and left in `folder`; None where none lies there.

    Raises:
        BadInput: if card or file are damaged.
    """
    if not (folder / TRIGGER).is_file():
        return None
    described = read_card(folder / CARD, trigger=dict[str, Any])["trigger"]
    fields = {key: value for key, value in described.items() if key not in ("digest", "weights")}
    return learnt(fields, load_weights(folder / TRIGGER), where=f"{folder / CARD}: trigger")


def _loaded(path: Path) -> State | None:
    return _finite(path) if path.is_file() else None


def _finite(path: Path) -> State:
    state = load_weights(path)
    check_finite(state, str(path))
    return state


def _check_facts(facts: Mapping[str, Any], folder: Path) -> None:
    """Refuse facts of types that nobody here writes: reports walk through them."""
    for key, value in facts.items():
        if key not in _FACTS:
            raise BadInput(f"{folder / CARD}: facts: unknown '{key:.80}'{nearest(key, _FACTS)}")
        check_type(_FACTS[key], value, f"{folder / CARD}: facts.{key}")


def _images(path: Path, facts: Mapping[str, Any]) -> ImageSet | None:
    """The poisoned images in `path`, if they are there; they must be those of the card."""
    held = _loaded(path)
    if held is None:
        return None
    shapes = {name: (tensor.ndim, tensor.dtype) for name, tensor in held.items()}
    if shapes != {"images": (4, torch.uint8), "labels": (1, torch.int64), "classes": (0, torch.int64)}:
        raise BadInput(f"{path}: expected images, labels and the number of classes, got {shapes!s:.200}")
    made = ImageSet(images=held["images"], labels=held["labels"], classes=int(held["classes"]))
    if made.digest() != facts.get("poisoned_digest"):
        raise BadInput(f"{path}: these are not the images of the card; the file was changed")
    return made


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
    return int(read_card(path, looks=int)["looks"]) if path.is_file() else 0


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


def without_folders(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a described component with the bare names of its files: where they lie is this machine's business."""
    return {k: Path(v).name if isinstance(v, str) and "/" in v else v for k, v in described.items()}


def _trigger_card(trigger: Trigger, shape: tuple[int, ...]) -> dict[str, Any]:
    described = without_folders(describe(trigger))
    channels, height, width = shape
    return {**described, "digest": trigger.digest((channels, height, width))}
