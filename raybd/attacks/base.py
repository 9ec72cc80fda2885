"""What every attack shares: the checked outer call, and poisoning by data alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from raybd import seeds
from raybd.data import Augment, ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.training import Compute, Epoch, Recipe, finished
from raybd.triggers import Trigger


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A backdoored model, its trigger, and the poisoned training set where there is one."""

    model: Classifier
    trigger: Trigger
    training_set: ImageSet | None
    poisoned: tuple[int, ...]
    last: Epoch


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What an attacker works with: clean training images, an architecture, a recipe.

    `fresh_model` takes a seed and returns an untrained model.
    """

    train: ImageSet
    fresh_model: Callable[[int], Classifier]
    recipe: Recipe
    augment: Augment
    compute: Compute


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A way to give a model a backdoor. A subclass writes only `run` and `trigger`."""

    kind: ClassVar[str]
    citation: ClassVar[str]
    target_label: int

    @abstractmethod
    def trigger(self) -> Trigger:
        """Return the trigger this attack plants."""

    @abstractmethod
    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Plant the backdoor; inputs are checked already."""

    @final
    def plant(self, workshop: Workshop, *, seed: int) -> Planted:
        """Check the trigger against the images, then plant the backdoor.

        Raises:
            BadInput: if the trigger does not fit the images or the target is no class.
        """
        self.trigger().check(workshop.train.shape, workshop.train.classes)
        return self.run(workshop, seed)


@dataclass(frozen=True, kw_only=True)
class DataPoisoning(Attack):
    """An attack that only poisons data: `poison_ratio` = poisoned images / whole training set."""

    poison_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.poison_ratio < 1:
            raise BadInput(f"poison_ratio: expected between 0 and 1, got {self.poison_ratio}")
        self.trigger()  # whose checks are this attack's too

    @abstractmethod
    def choose(self, labels: Tensor, seed: int) -> Tensor:
        """Return the indices (k,) of the images to poison."""

    @final
    def poison(self, train: ImageSet, *, seed: int) -> tuple[ImageSet, tuple[int, ...]]:
        """Return the poisoned copy of `train`, and which of its images were poisoned."""
        chosen = self.choose(train.labels, seed)
        if not len(chosen):
            raise BadInput(f"poison_ratio: {self.poison_ratio} of {len(train)} images is no image")
        trigger, images, labels = self.trigger(), train.images.clone(), train.labels.clone()
        images[chosen] = trigger.apply(train.images[chosen])
        labels[chosen] = trigger.goal_labels(train.labels[chosen])
        return ImageSet(images=images, labels=labels, classes=train.classes), tuple(chosen.tolist())

    @final
    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Train a fresh model on the poisoned set."""
        training_set, poisoned = self.poison(workshop.train, seed=seeds.derive(seed, "poison"))
        model, last = train_fresh(workshop, training_set, seed=seed)
        return Planted(model=model, trigger=self.trigger(), training_set=training_set, poisoned=poisoned, last=last)


def train_fresh(workshop: Workshop, data: ImageSet, *, seed: int) -> tuple[Classifier, Epoch]:
    """Return a model trained from scratch on `data`, ready to be read; with clean data and the attack's seed, the twin.

    It is in evaluation mode: left as training leaves it, its batch norm would answer by the batch, and change.
    """
    model = workshop.fresh_model(seeds.derive(seed, "model"))
    epochs = workshop.recipe.fit(
        model, data, augment=workshop.augment, compute=workshop.compute, seed=seeds.derive(seed, "training")
    )
    last = finished(epochs)
    return model.eval(), last


def uniform_choice(labels: Tensor, ratio: float, seed: int) -> Tensor:
    """Return round(ratio * n) indices drawn from all images, target class included, as the field does."""
    order = torch.randperm(len(labels), generator=seeds.generator(seed, "choose"))
    return order[: round(ratio * len(labels))]
