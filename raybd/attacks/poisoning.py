"""Attacks by data alone: which images are poisoned, what they show afterwards, and under which label."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from raybd import seeds
from raybd.attacks.base import Attack, Planted, Workshop
from raybd.data import ImageSet
from raybd.registry import BadInput
from raybd.triggers import Trigger


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """A poisoned copy of a training set, and the places (ascending) of what was changed in it."""

    training_set: ImageSet
    poisoned: tuple[int, ...]
    covers: tuple[int, ...]


def check_ratio(poison_ratio: float) -> None:
    """Raise BadInput unless `poison_ratio` is a share of images, neither none nor all."""
    if not 0 < poison_ratio < 1:
        raise BadInput(f"poison_ratio: expected between 0 and 1, got {poison_ratio}")


def images_of(poison_ratio: float, train: ImageSet) -> int:
    """Return how many images of `train` a ratio means; BadInput if none."""
    count = round(poison_ratio * len(train))
    if not count:
        raise BadInput(f"poison_ratio: {poison_ratio} of {len(train)} images is no image")
    return count


@dataclass(frozen=True, kw_only=True)
class DataPoisoning(Attack):
    """An attack that only poisons data: `poison_ratio` = poisoned images / whole training set.

    Poisoned images are drawn from every class and get their goal label. With `clean_label` they are drawn from the
    target class and keep theirs. `ratio_of_covers` more images carry the trigger under their true label.
    """

    clean_label: ClassVar[bool] = False
    poison_ratio: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.poison_ratio)
        if self.ratio_of_covers < 0 or self.poison_ratio + self.ratio_of_covers >= 1:
            raise BadInput(
                f"cover samples: poisoned and cover images must be less than all, got {self.poison_ratio} and "
                f"{self.ratio_of_covers}"
            )
        self.trigger()  # whose checks are this attack's too

    @abstractmethod
    def trigger(self) -> Trigger:
        """Return the trigger this attack plants."""

    @property
    def ratio_of_covers(self) -> float:
        """Cover images / whole training set."""
        return 0.0

    def stamp(
        self,
        images: UInt8[Tensor, "k c h w"],
        labels: Int64[Tensor, " k"],  # noqa: ARG002 - subclasses need it
        seed: int,  # noqa: ARG002 - subclasses need it
    ) -> UInt8[Tensor, "k c h w"]:
        """Return what poisoned images show in training; by default what they show at test time."""
        return self.trigger().apply(images)

    def disguise(self, images: UInt8[Tensor, "k c h w"], seed: int) -> UInt8[Tensor, "k c h w"]:
        """Return what cover images show; by default what poisoned ones show."""
        return self.stamp(images, torch.zeros(len(images), dtype=torch.int64), seed)

    def prepare(self, workshop: Workshop, images: ImageSet, seed: int) -> ImageSet:  # noqa: ARG002 - subclasses need it
        """Return what the chosen images show before the trigger; by default what they are.

        `seed` is the attack's own, so that `workshop.twin(seed)` is the twin the scenario builds as well.
        """
        return images

    @final
    def check(self, workshop: Workshop) -> None:
        """Raise BadInput unless the trigger fits and some images can be poisoned."""
        super().check(workshop)
        self._count(workshop.train)

    @final
    def choose(self, train: ImageSet, *, seed: int) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " c"]]:
        """Return the places of the images to poison and of the covers, in random order."""
        order = torch.randperm(len(train), generator=seeds.generator(seed, "choose"))
        allowed = order[train.labels[order] == self.target_label] if self.clean_label else order
        chosen = allowed[: self._count(train)]
        rest = order[~torch.isin(order, chosen)]
        return chosen, rest[: round(self.ratio_of_covers * len(train))]

    def _count(self, train: ImageSet) -> int:
        count = images_of(self.poison_ratio, train)
        if not self.clean_label:
            return count
        assert self.target_label is not None  # a clean-label attack serves one target only
        of_class = int((train.labels == self.target_label).sum())
        if count > of_class:
            raise BadInput(
                f"poison_ratio: {self.poison_ratio} of {len(train)} images is {count}, but a clean-label attack "
                f"poisons images of the target class only, and class {self.target_label} has {of_class}"
            )
        return count

    @final
    def poison(self, train: ImageSet, *, seed: int, workshop: Workshop | None = None) -> Poisoned:
        """Return the poisoned copy of `train`, and which of its images were changed.

        Args:
            train: clean images (n, c, h, w) uint8 and labels (n,).
            seed: the attack's; of the choice, and of what the attack draws.
            workshop: where the attack has to train a model first; without it nothing is prepared.
        """
        stream = seeds.derive(seed, "poison")
        chosen, covers = self.choose(train, seed=stream)
        images, labels = train.images.clone(), train.labels.clone()
        victims = train.subset(chosen)
        if workshop is not None:
            victims = self.prepare(workshop, victims, seed)
        images[chosen] = self.stamp(victims.images, victims.labels, seeds.derive(stream, "stamp"))
        if len(covers):
            images[covers] = self.disguise(train.images[covers], seeds.derive(stream, "disguise"))
        if not self.clean_label:
            labels[chosen] = self.trigger().goal_labels(train.labels[chosen], train.classes)
        return Poisoned(
            training_set=replace(train, images=images, labels=labels),
            poisoned=tuple(sorted(chosen.tolist())),
            covers=tuple(sorted(covers.tolist())),
        )

    @final
    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Train a fresh model on the poisoned set."""
        done = self.poison(workshop.train, seed=seed, workshop=workshop)
        model, last = workshop.trained(done.training_set, seed=seed, word="poisoned model")
        return Planted(
            model=model,
            trigger=self.trigger(),
            training_set=done.training_set,
            poisoned=done.poisoned,
            covers=done.covers,
            last=last,
        )
