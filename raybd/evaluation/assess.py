"""The assessment: every model on the test split, before and after, with what it cost and what else changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raybd.data import ImageSet, stratified_order
from raybd.evaluation import metrics
from raybd.evaluation.metrics import ClassRate, Difference, Rate, Readings, Spread
from raybd.evaluation.sequela import Membership, compare_membership
from raybd.models import Architecture
from raybd.registry import BadInput
from raybd.training import Compute, predict
from raybd.triggers import Trigger
from raybd.weights import State, load_into

MAX_MEMBERS = 5000
"""So many members are read at most, drawn stratified: more would hardly narrow the AUC's interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One line of the table: the same method with several seeds. The line shows `states[shown]`.

    `training_seconds` and `images` (image-steps) are those of the shown run.
    """

    states: tuple[State, ...]
    shown: int = 0
    setting: dict[str, Any] | None = None
    training_seconds: float = 0.0
    images: int = 0


@dataclass(frozen=True, kw_only=True)
class Spreads:
    """Mean and standard deviation over seeds of the three rates."""

    clean_accuracy: Spread
    attack_success_rate: Spread
    robust_accuracy: Spread


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the table says of one model; `spread` only where several seeds were run."""

    clean_accuracy: Rate
    attack_success_rate: Rate
    robust_accuracy: Rate
    accuracy_drop: Difference | None
    per_class: tuple[ClassRate, ...]
    training_seconds: float
    images: int
    spread: Spreads | None
    setting: dict[str, Any] | None
    collapsed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class TestView:
    """What the assessment looks at. `members` are images the suspect was trained on, None when unknown.

    `members_are` says in words which of them, and how the suspect saw them.
    `compute` is the study's; every model is read in full precision, see `Compute.exact`.
    """

    __test__ = False  # pytest: not a test class

    architecture: Architecture
    test: ImageSet
    members: ImageSet | None
    trigger: Trigger
    compute: Compute
    members_are: str = "training images of the suspect"


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A subject's shown model: its row and its readings on test."""

    row: Row
    readings: Readings


def examine(view: TestView, subjects: Mapping[str, Subject]) -> dict[str, Examined]:
    """Return every subject's row; `suspect` is what drops are counted from.

    Raises:
        BadInput: if there is no subject named `suspect`.
    """
    if "suspect" not in subjects:
        raise BadInput("assess: a subject named 'suspect' is needed")
    reference = _readings(view, subjects["suspect"])[subjects["suspect"].shown]
    return {name: _examined(view, subject, reference, name) for name, subject in subjects.items()}


def _examined(view: TestView, subject: Subject, reference: Readings, name: str) -> Examined:
    all_readings = _readings(view, subject)
    shown = all_readings[subject.shown]
    row = Row(
        clean_accuracy=shown.clean_accuracy,
        attack_success_rate=shown.attack_success_rate,
        robust_accuracy=shown.robust_accuracy,
        accuracy_drop=None if name == "suspect" else metrics.paired_drop(reference.correct, shown.correct),
        per_class=tuple(shown.per_class()),
        training_seconds=subject.training_seconds,
        images=subject.images,
        spread=_spreads(all_readings) if len(all_readings) > 1 else None,
        setting=subject.setting,
        collapsed=metrics.collapsed(shown.clean_accuracy.rate, reference.clean_accuracy.rate),
    )
    return Examined(row=row, readings=shown)


def _readings(view: TestView, subject: Subject) -> list[Readings]:
    model = view.architecture.build(0)
    readings = []
    for state in subject.states:
        load_into(model, state)
        readings.append(metrics.read(model, view.test, view.trigger, view.compute.exact()))
    return readings


def _spreads(readings: list[Readings]) -> Spreads:
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    return Spreads(**{name: metrics.spread([getattr(r, name).rate for r in readings]) for name in names})


def membership(
    view: TestView,
    subjects: Mapping[str, Subject],
    examined: Mapping[str, Examined],
    *,
    trained_on: ImageSet,
    same_images: Subject | None,
) -> Membership:
    """Return both readings of membership inference; non-members are the test images.

    Args:
        view: the test split and the suspect's members.
        subjects: suspect, references and `candidate`.
        examined: what `examine` gave for them.
        trained_on: the clean images the candidate was really trained on.
        same_images: conventional fine-tuning on those very images; None when it was not run.
    """
    collapsed = [name for name, seen in examined.items() if seen.row.collapsed]
    outside = {name: seen.readings.losses for name, seen in examined.items()}
    suspect_members = None
    if view.members is not None:
        order = stratified_order(view.members.labels, seed=0)[:MAX_MEMBERS]
        suspect_members = compare_membership(
            _losses(view, {name: subjects[name] for name in examined}, view.members.subset(order)),
            outside,
            collapsed=collapsed,
            against="suspect",
            members_are=view.members_are,
        )
    own_cost = None
    if same_images is not None:
        # Examined here: a reference of that name may have been trained on other images.
        tuned = Subject(states=(same_images.states[same_images.shown],))
        seen = _examined(view, tuned, examined["suspect"].readings, "fine_tuning")
        chosen = {"suspect": subjects["suspect"], "fine_tuning": tuned, "candidate": subjects["candidate"]}
        own_cost = compare_membership(
            _losses(view, chosen, trained_on),
            outside | {"fine_tuning": seen.readings.losses},
            collapsed=[n for n in collapsed if n != "fine_tuning"] + ["fine_tuning"] * seen.row.collapsed,
            against="fine_tuning",
            members_are="clean images the candidate was trained on",
        )
    return Membership(suspect_members=suspect_members, trained_on=own_cost)


def _losses(view: TestView, subjects: Mapping[str, Subject], images: ImageSet) -> dict[str, Tensor]:
    """Per-image losses (n,) of every subject's shown model."""
    model = view.architecture.build(0)
    losses = {}
    for name, subject in subjects.items():
        load_into(model, subject.states[subject.shown])
        losses[name] = metrics.image_losses(predict(model, images.images, view.compute.exact()), images.labels)
    return losses
