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
        raise BadInput(f"attack.poison_ratio: {poison_ratio} of {len(train)} images is no image")
    return count


def order_of_choice(train: ImageSet, seed: int) -> Int64[Tensor, " n"]:
    """Return the places of all images of `train`, in the random order in which they are chosen."""
    return torch.randperm(len(train), generator=seeds.generator(seed, "choose"))


def changed(
    train: ImageSet, places: Int64[Tensor, " k"], images: UInt8[Tensor, "k c h w"], labels: Int64[Tensor, " k"]
) -> ImageSet:
    """Return a copy of `train` with other images and labels in `places`."""
    return replace(
        train,
        images=train.images.index_copy(0, places, images),
        labels=train.labels.index_copy(0, places, labels),
    )


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
        """Raise BadInput unless the trigger fits, and some images can be poisoned and, if asked for, be covers."""
        super().check(workshop)
        self._count(workshop.train)
        self.fit_to(workshop.train.shape)
        if self.ratio_of_covers > 0 and not self._covers(workshop.train):
            raise BadInput(
                f"attack: cover samples: {self.ratio_of_covers:g} of {len(workshop.train)} images is none; use a "
                "larger ratio"
            )

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if what training shows does not fit images of `shape` (c, h, w); the trigger is checked."""

    @final
    def choose(self, train: ImageSet, *, seed: int) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " c"]]:
        """Return the places of the images to poison and of the covers, in random order."""
        order = order_of_choice(train, seed)
        allowed = order[train.labels[order] == self.target_label] if self.clean_label else order
        chosen = allowed[: self._count(train)]
        rest = order[~torch.isin(order, chosen)]
        return chosen, rest[: self._covers(train)]

    def _covers(self, train: ImageSet) -> int:
        return round(self.ratio_of_covers * len(train))

    def _count(self, train: ImageSet) -> int:
        count = images_of(self.poison_ratio, train)
        if not self.clean_label:
            return count
        assert self.target_label is not None  # a clean-label attack serves one target only
        of_class = int((train.labels == self.target_label).sum())
        if count > of_class:
            raise BadInput(
                f"attack.poison_ratio: {self.poison_ratio} of {len(train)} images is {count}, but a clean-label attack "
                f"poisons images of the target class only, and class {self.target_label} has {of_class}"
            )
        return count

    @final
    def poison(self, workshop: Workshop, *, seed: int) -> Poisoned:
        """Return the poisoned copy of the workshop's images, and which of them were changed.

        `seed` is the attack's: of the choice, of what the attack draws, and of a model it trains first.

        Raises:
            BadInput: as `check` does, before such a model is trained.
        """
        self.check(workshop)
        train, stream = workshop.train, seeds.derive(seed, "poison")
        chosen, covers = self.choose(train, seed=stream)
        victims = self.prepare(workshop, train.subset(chosen), seed)
        shown = self.stamp(victims.images, victims.labels, seeds.derive(stream, "stamp"))
        goals = victims.labels if self.clean_label else self.trigger().goal_labels(victims.labels, train.classes)
        done = changed(train, chosen, shown, goals)
        if len(covers):
            kept = train.subset(covers)
            done = changed(done, covers, self.disguise(kept.images, seeds.derive(stream, "disguise")), kept.labels)
        return Poisoned(
            training_set=done, poisoned=tuple(sorted(chosen.tolist())), covers=tuple(sorted(covers.tolist()))
        )

    @final
    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Train a fresh model on the poisoned set."""
        done = self.poison(workshop, seed=seed)
        model, last = workshop.trained(done.training_set, seed=seed, word="poisoned model")
        return Planted(
            model=model,
            trigger=self.trigger(),
            training_set=done.training_set,
            poisoned=done.poisoned,
            covers=done.covers,
            last=last,
        )
