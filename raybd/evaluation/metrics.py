"""What a model does with images: how often it is right, and how often it obeys the trigger."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from raybd.data import ImageSet
from raybd.evaluation.intervals import (
    MIN_CLASS_IMAGES,
    ClassDrop,
    Difference,
    Rate,
    Spread,
    paired_difference,
    spread,
)
from raybd.registry import BadInput
from raybd.training import Compute, predict
from raybd.triggers import Trigger

__all__ = [
    "ClassDrop",
    "ClassRate",
    "Difference",
    "Rate",
    "Readings",
    "Spread",
    "answers",
    "attack_success_rate",
    "attackable",
    "class_drops",
    "collapsed",
    "image_losses",
    "paired_drop",
    "read",
    "spread",
]

COLLAPSE_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class ClassRate:
    """The accuracy on one class; `label` is None for the classes too small to stand alone, pooled."""

    label: int | None
    n: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """What one model does on one split.

    `correct`, `losses` (cross-entropy in nats, float64) and `labels` hold one entry per clean image, in the
    split's order. `attack_success_rate` and `robust_accuracy` are over the triggered images alone.
    """

    clean_accuracy: Rate
    attack_success_rate: Rate
    robust_accuracy: Rate
    correct: Bool[Tensor, " n"]
    losses: Float[Tensor, " n"]
    labels: Int64[Tensor, " n"]

    def per_class(self, min_images: int = MIN_CLASS_IMAGES) -> list[ClassRate]:
        """Accuracy by class; classes with fewer than `min_images` images are pooled into one, at the end."""
        rates = []
        for label, rows in _class_rows(self.labels, min_images):
            rate = Rate.of(int(self.correct[rows].sum()), int(rows.sum()))
            rates.append(ClassRate(label=label, n=rate.n, rate=rate.rate, low=rate.low, high=rate.high))
        return rates


@dataclass(frozen=True, kw_only=True, eq=False)
class _Triggered:
    """Triggered images, one row each: did the model answer the goal, did it answer the truth?"""

    hit_goal: Bool[Tensor, " m"]
    still_right: Bool[Tensor, " m"]


def read(model: nn.Module, images: ImageSet, trigger: Trigger, compute: Compute) -> Readings:
    """Measures `model` on `images`: one pass over them as they are, one over them with the trigger.

    An image whose logits are not all finite counts as wrong, never as the goal, and has an infinite loss.

    Raises:
        BadInput: `images` is empty, or every image already has the trigger's goal label.
    """
    if not len(images):
        raise BadInput("cannot measure a model on an empty set of images")
    logits = predict(model, images.images, compute)
    correct = answers(logits) == images.labels
    triggered = _read_triggered(model, images, trigger, compute)
    return Readings(
        clean_accuracy=_rate(correct),
        attack_success_rate=_rate(triggered.hit_goal),
        robust_accuracy=_rate(triggered.still_right),
        correct=correct,
        losses=image_losses(logits, images.labels),
        labels=images.labels,
    )


def attack_success_rate(model: nn.Module, images: ImageSet, trigger: Trigger, compute: Compute) -> Rate:
    """The share of triggered images, whose goal differs from their label, that `model` gives the goal label.

    Raises:
        BadInput: every image already has the trigger's goal label.
    """
    return _rate(_read_triggered(model, images, trigger, compute).hit_goal)


def attackable(images: ImageSet, trigger: Trigger) -> tuple[ImageSet, Int64[Tensor, " m"]]:
    """The images whose goal label differs from their true one, and those goal labels.

    Raises:
        BadInput: there is no such image.
    """
    goals = trigger.goal_labels(images.labels, images.classes)
    rows = (goals != images.labels).nonzero().flatten()
    if not len(rows):
        raise BadInput(f"attack success rate: all {len(images)} images already have the trigger's goal label")
    return images.subset(rows), goals[rows]


def answers(logits: Float32[Tensor, "n classes"]) -> Int64[Tensor, " n"]:
    """The predicted label of each image; -1, which no label equals, where a logit is not finite."""
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)


def image_losses(logits: Float32[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross-entropy of each image in nats, float64 (float32 would tie the surest ones); inf if not finite."""
    losses = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    return torch.where(logits.isfinite().all(dim=1), losses, math.inf)


def paired_drop(before: Bool[Tensor, " n"], after: Bool[Tensor, " n"]) -> Difference:
    """The rate of `before` minus the rate of `after`, both on the same images.

    The interval is that of `intervals.paired_difference`.

    Raises:
        BadInput: no images, or not the same number before and after.
    """
    if before.shape != after.shape:
        raise BadInput(f"a paired difference needs the same images, got {len(before)} and {len(after)}")
    both = int((before & after).sum())
    lost = int((before & ~after).sum())
    won = int((~before & after).sum())
    return paired_difference(both=both, lost=lost, won=won, neither=len(before) - both - lost - won)


def class_drops(before: Readings, after: Readings, min_images: int = MIN_CLASS_IMAGES) -> tuple[ClassDrop, ...]:
    """How much accuracy each class lost; classes under `min_images` images are pooled into one, at the end.

    Raises:
        BadInput: the two readings are not of the same images.
    """
    if not torch.equal(before.labels, after.labels):
        raise BadInput("class drops need two readings of the same images, their labels differ")
    return tuple(
        ClassDrop(label=label, drop=paired_drop(before.correct[rows], after.correct[rows]))
        for label, rows in _class_rows(before.labels, min_images)
    )


def collapsed(clean_accuracy: float, reference_accuracy: float) -> bool:
    """Whether a model is too broken to read privacy from: accuracy NaN or under half the reference's."""
    return not clean_accuracy >= COLLAPSE_SHARE * reference_accuracy


def _read_triggered(model: nn.Module, images: ImageSet, trigger: Trigger, compute: Compute) -> _Triggered:
    targets, goals = attackable(images, trigger)
    given = answers(predict(model, trigger.apply(targets.images), compute))
    return _Triggered(hit_goal=given == goals, still_right=given == targets.labels)


def _rate(hits: Bool[Tensor, " n"]) -> Rate:
    return Rate.of(int(hits.sum()), len(hits))


def _class_rows(labels: Tensor, min_images: int) -> list[tuple[int | None, Tensor]]:
    """(label, mask of its images) per class present, large classes by label, the pool of small ones last."""
    present, counts = torch.unique(labels, return_counts=True)
    large = counts >= min_images
    rows: list[tuple[int | None, Tensor]] = [(int(label), labels == label) for label in present[large]]
    if not bool(large.all()):
        rows.append((None, torch.isin(labels, present[~large])))
    return rows
