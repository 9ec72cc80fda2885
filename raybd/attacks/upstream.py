"""Attacks on a model that its victim will put under a task of their own, by images of that task."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from raybd import seeds
from raybd.attacks.base import Attack, Planted, Workshop
from raybd.data import ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.training import Epoch, check_not_negative, check_positive, finished
from raybd.triggers import Goal, Patch


@dataclass(frozen=True, kw_only=True)
class Upstream(Attack):
    """An attack that changes a clean model: triggered images are to have the features of the victim's target class.

    `target_label` counts the victim's labels; the attacker holds images of that class, of which `reference_images`
    are drawn. The trigger is a square of `size` pixels. Training takes `epochs` passes over the attacker's images by
    SGD at a constant rate. A subclass writes only `implant`.
    """

    goals: ClassVar[tuple[Goal, ...]] = ("all_to_one",)
    target_of: ClassVar[Literal["training", "victim"]] = "victim"
    size: int = 10
    row: int = -1
    column: int = -1
    value: int = 255
    reference_images: int = 3
    epochs: int = 200
    lr: float = 1e-3
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "reference_images", "epochs", "lr", "batch_size")
        check_not_negative(self, "momentum", "weight_decay")
        self.trigger()  # whose checks are this attack's too

    @abstractmethod
    def implant(
        self, workshop: Workshop, model: Classifier, references: UInt8[Tensor, "k c h w"], seed: int
    ) -> Iterator[Epoch]:
        """Train the backdoor into `model`, a clean one, in place; `references` show the target class."""

    @final
    def trigger(self) -> Patch:
        """Return the square."""
        return Patch(**self.aim, size=self.size, row=self.row, column=self.column, value=self.value)

    def check(self, workshop: Workshop) -> None:
        """Raise BadInput unless the trigger fits and there are images enough of the target class."""
        super().check(workshop)
        assert workshop.references is not None
        if workshop.references.shape != workshop.train.shape:
            raise BadInput(
                f"attack: the victim's images are {workshop.references.shape} (channels, height, width), those the "
                f"model is trained on {workshop.train.shape}"
            )
        held = len(self._held(workshop.references))
        if held < self.reference_images:
            raise BadInput(
                f"attack.reference_images: {self.reference_images} of class {self.target_label} are asked for, but the "
                f"attacker holds {held} of the victim's images of that class"
            )

    @final
    def choose(self, workshop: Workshop, *, seed: int) -> UInt8[Tensor, "k c h w"]:
        """Return the images of the target class that show where triggered images are to go."""
        assert workshop.references is not None
        held = self._held(workshop.references)
        order = torch.randperm(len(held), generator=seeds.generator(seed, "references"))
        return workshop.references.images[held[order[: self.reference_images]]]

    def _held(self, references: ImageSet) -> Int64[Tensor, " h"]:
        assert self.target_label is not None  # the only goal is all to one
        return (references.labels == self.target_label).nonzero().flatten()

    @final
    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Change a copy of the never-poisoned model."""
        model, references = workshop.twin(seed), self.choose(workshop, seed=seed)
        epochs = self.implant(workshop, model, references, seeds.derive(seed, "implant"))
        last = finished(workshop.told(epochs, "backdoored model"))
        return Planted(model=model.eval(), trigger=self.trigger(), training_set=None, poisoned=(), last=last)
