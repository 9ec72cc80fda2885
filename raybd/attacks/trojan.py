"""Trojan: a patch made to excite chosen neurons, then wired to the target (Liu et al., NDSS 2018)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from raybd import schedules, seeds
from raybd.attacks.base import Attack, Planted, Workshop
from raybd.attacks.poisoning import changed, check_ratio, images_of, order_of_choice
from raybd.data import ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput, renaming
from raybd.training import Batches, Epoch, check_positive, descend, finished
from raybd.triggers import Goal, Stamp
from raybd.triggers.patch import check_inside, start

BATCH = 32
"""So many training images the patch is pasted into at each of its steps."""
TOLD = 100
"""The patch's progress is told every so many steps."""


@dataclass(frozen=True, kw_only=True)
class Trojan(Attack):
    """A patch that drives a few neurons of a clean model up, and a fine-tuning that makes them mean the target.

    It follows "Trojaning Attack on Neural Networks" (doi 10.14722/ndss.2018.23291): take the neurons with the largest
    sum of absolute weights (here among the features the head sees, so the weights are the head's), find pixels
    that excite them, retrain on clean images and on images with the trigger under the target label. Ours differs in
    three things. The attacker holds training images, where the paper reconstructs some from the model. The patch
    is a square in place of a logo. And neurons that speak for the target are passed over: their patch would
    make a model that was never poisoned obey too, which is an adversarial patch and no backdoor; what ties
    neurons to target must come from the fine-tuning.

    Two neurons and 1,000 steps are the benchmark's. The rest is ours: a patch of 6 of 32 pixels, 10 % of the images,
    10 epochs at the benchmark's rate of 0.01.

    Attributes:
        neurons: features to excite.
        size: the patch's height and width, in pixels.
        row: where it sits, as in `Patch`.
        column: where it sits, as in `Patch`.
        trigger_steps: steps (Adam) in which its pixels are found.
        trigger_lr: their learning rate.
        poison_ratio: triggered images / whole training set, in the fine-tuning.
        epochs: of the fine-tuning; the rest of it is the study's recipe.
        lr: rate of its first step.
    """

    kind: ClassVar[str] = "trojan"
    citation: ClassVar[str] = "trojan"
    goals: ClassVar[tuple[Goal, ...]] = ("all_to_one",)
    makes_images: ClassVar[bool] = True
    neurons: int = 2
    size: int = 6
    row: int = -1
    column: int = -1
    trigger_steps: int = 1000
    trigger_lr: float = 0.1
    poison_ratio: float = 0.1
    epochs: int = 10
    lr: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "neurons", "size", "trigger_steps", "trigger_lr", "epochs", "lr")
        check_ratio(self.poison_ratio)

    def trigger(self) -> None:
        """Return None: the trigger is learnt."""

    def check(self, workshop: Workshop) -> None:
        """Raise BadInput unless patch, neurons and ratio fit images and model."""
        super().check(workshop)
        _ = workshop.supervised
        features = workshop.fresh_model(0).head.in_features
        if self.neurons > features:
            raise BadInput(f"attack.neurons: expected at most {features}, what the head sees, got {self.neurons}")
        blank = torch.empty(workshop.train.shape[0], self.size, self.size)
        with renaming("trigger", "attack"):
            check_inside(blank, self.row, self.column, workshop.train.shape)
        images_of(self.poison_ratio, workshop.train)

    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Find the patch on the never-poisoned model, then fine-tune that model with it."""
        model = workshop.twin(seed)
        pattern = self._found(workshop, model, seeds.derive(seed, "patch"))
        trigger = Stamp.learnt({"pattern": pattern}, **self.aim, row=self.row, column=self.column)
        data, chosen = self._poisoned(workshop.train, trigger, seeds.derive(seed, "poison"))
        epochs = replace(workshop.supervised, epochs=self.epochs, lr=self.lr).fit(
            model, data, augment=workshop.augment, compute=workshop.compute, seed=seeds.derive(seed, "retraining")
        )
        last = finished(workshop.told(epochs, "poisoned model"))
        return Planted(
            model=model.eval(), trigger=trigger, training_set=data, poisoned=tuple(sorted(chosen.tolist())), last=last
        )

    def _found(self, workshop: Workshop, model: Classifier, seed: int) -> UInt8[Tensor, "c p q"]:
        """Return the patch that excites the chosen neurons of `model`, whatever image it is pasted into."""
        workshop.compute.place(model)
        pixels = torch.zeros(workshop.train.shape[0], self.size, self.size, device=workshop.compute.device)
        pixels.requires_grad_()
        finished(workshop.told(self._excite(workshop, model, pixels, seed), "trigger"))
        return torch.sigmoid(pixels.detach()).mul(255).round().to("cpu", torch.uint8)

    def _excite(self, workshop: Workshop, model: Classifier, pixels: Tensor, seed: int) -> Iterator[Epoch]:
        assert self.target_label is not None  # it serves all_to_one only
        chosen = neurons(model.head, self.target_label, self.neurons)
        batches = Batches(workshop.train, BATCH, workshop.augment, workshop.compute, seed)
        row = start(self.row, self.size, workshop.train.shape[1])
        column = start(self.column, self.size, workshop.train.shape[2])

        def loss_of_step() -> Tensor:
            inputs, _ = batches.next()
            inputs[:, :, row : row + self.size, column : column + self.size] = torch.sigmoid(pixels)
            with workshop.compute.autocast():
                features = model.features(inputs)
            return -features[:, chosen].float().mean()

        yield from descend(
            loss_of_step,
            torch.optim.Adam([pixels]),
            steps=self.trigger_steps,
            stretch=TOLD,
            batch_size=batches.size,
            schedule=schedules.constant(self.trigger_lr),
            compute=workshop.compute,
            seed=seed,
            begin=model.eval,
        )

    def _poisoned(self, train: ImageSet, trigger: Stamp, seed: int) -> tuple[ImageSet, Int64[Tensor, " k"]]:
        chosen = order_of_choice(train, seed)[: images_of(self.poison_ratio, train)]
        victims = train.subset(chosen)
        goals = trigger.goal_labels(victims.labels, train.classes)
        return changed(train, chosen, trigger.apply(victims.images), goals), chosen


def neurons(head: nn.Linear, target: int, count: int) -> Int64[Tensor, " k"]:
    """Return the `count` inputs of `head` with the largest sum of absolute weights that do not speak for `target`.

    An input speaks for the target if its weight there is above the mean of its weights. Where there are too few
    others, those that speak for it follow, the strongest first.
    """
    weights = head.weight.detach().float()
    strength = weights.abs().sum(0)
    speaks = weights[target] > weights.mean(0)
    return torch.argsort(strength - speaks * (strength.max() + 1), descending=True, stable=True)[:count]
