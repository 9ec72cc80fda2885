"""Input-aware: every poisoned image carries a trigger of its own (Nguyen & Tran 2020, arXiv 2010.08138)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raybd import schedules, seeds
from raybd.attacks.base import Attack, Planted, Workshop
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.training import Batches, Epoch, check_not_negative, check_positive, descend, descend_passes, finished
from raybd.triggers.generators import Generators, show
from raybd.triggers.input_aware import InputAware as InputAwareTrigger

MOMENTS = (0.5, 0.9)
"""Adam's decay rates for the generators."""


@dataclass(frozen=True, kw_only=True)
class InputAware(Attack):
    """A generator draws a pattern for each image, another the few pixels where it shows; dirty label.

    The mask's generator is trained first, for sparse masks that differ from image to image, and then frozen. The
    pattern's generator is trained together with the classifier, which follows the study's recipe: of each batch
    `p_attack` images carry their own trigger and get their goal label, `p_cross` images carry another image's
    trigger and keep theirs. Which images those are changes from step to step, so no training set is left behind.

    The numbers are the benchmark's for CIFAR-10. Ours differ from the paper in the generators, which are
    smaller and normalised image by image, so that an image's trigger never depends on its batch, and in the mask's
    penalty, which counts the mean over an image, so that `mask_density` is the share of pixels that show.

    Attributes:
        p_attack: poisoned images / batch.
        p_cross: images with another image's trigger / batch.
        mask_density: the share of an image's pixels beyond which a mask is penalised.
        lambda_div: weight of the diversity loss: triggers must differ as much as their images.
        lambda_norm: weight of the penalty on dense masks.
        mask_epochs: epochs of the mask's generator.
        lr_mask: learning rate (Adam) of the mask's generator.
        lr_pattern: learning rate (Adam) of the pattern's generator.
        width: channels of the generators' first layer.
    """

    kind: ClassVar[str] = "input_aware"
    citation: ClassVar[str] = "input_aware"
    p_attack: float = 0.1
    p_cross: float = 0.1
    mask_density: float = 0.032
    lambda_div: float = 1.0
    lambda_norm: float = 100.0
    mask_epochs: int = 25
    lr_mask: float = 0.01
    lr_pattern: float = 0.01
    width: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "p_attack", "p_cross", "mask_density", "mask_epochs", "lr_mask", "lr_pattern", "width")
        check_not_negative(self, "lambda_div", "lambda_norm")
        if self.p_attack + self.p_cross >= 1:
            raise BadInput(
                f"p_cross: poisoned and cross-trigger images must be less than all, got {self.p_attack} and "
                f"{self.p_cross}"
            )
        if self.mask_density > 1:
            raise BadInput(f"mask_density: expected a share of at most 1, got {self.mask_density}")

    def trigger(self) -> None:
        """Return None: the trigger is learnt."""

    def check(self, workshop: Workshop) -> None:
        """Raise BadInput unless each batch has images to poison, to cross and to leave alone."""
        super().check(workshop)
        self._shares(min(workshop.supervised.batch_size, len(workshop.train)))

    def run(self, workshop: Workshop, seed: int) -> Planted:
        """Train the mask's generator, then the pattern's together with a fresh model."""
        with seeds.IsolatedRandom(seeds.derive(seed, "generators")):
            generators = Generators(workshop.train.shape[0], self.width)
        generators.to(workshop.compute.device)
        finished(workshop.told(self._train_masks(workshop, generators, seeds.derive(seed, "mask")), "mask generator"))
        model = workshop.fresh_model(seeds.derive(seed, "model"))
        epochs = self._train_together(workshop, generators, model, seeds.derive(seed, "training"))
        last = finished(workshop.told(epochs, "poisoned model"))
        trigger = InputAwareTrigger.learnt(generators.state_dict(), **self.aim)
        return Planted(model=model.eval(), trigger=trigger, training_set=None, poisoned=(), last=last)

    def _train_masks(self, workshop: Workshop, generators: Generators, seed: int) -> Iterator[Epoch]:
        batches = _batches(workshop, seed)

        def loss_of_step() -> Tensor:
            inputs, _ = batches.next()
            masks = generators.masks(inputs)
            excess = (masks.mean((1, 2, 3)) - self.mask_density).relu().mean()
            return self.lambda_norm * excess + self.lambda_div * diversity(inputs, masks)

        yield from descend_passes(
            loss_of_step,
            torch.optim.Adam(generators.mask.parameters(), betas=MOMENTS),
            batches,
            epochs=self.mask_epochs,
            lr=self.lr_mask,
            compute=workshop.compute,
            seed=seed,
            begin=generators.train,
        )

    def _train_together(
        self, workshop: Workshop, generators: Generators, model: Classifier, seed: int
    ) -> Iterator[Epoch]:
        recipe, compute = workshop.supervised, workshop.compute
        compute.place(model)
        generators.mask.requires_grad_(requires_grad=False)
        batches = _batches(workshop, seed)
        steps = recipe.epochs * batches.per_pass
        yield from descend(
            self._loss_together(workshop, generators, model, batches),
            self._optimizer(workshop, generators, model),
            steps=steps,
            stretch=batches.per_pass,
            batch_size=batches.size,
            schedule=schedules.cosine(recipe.lr, steps),
            compute=compute,
            seed=seed,
            begin=model.train,
        )

    def _loss_together(
        self, workshop: Workshop, generators: Generators, model: Classifier, batches: Batches
    ) -> Callable[[], Tensor]:
        poisoned, crossed = self._shares(batches.size)
        touched = poisoned + crossed
        goal_labels = InputAwareTrigger(**self.aim).goal_labels

        def loss_of_step() -> Tensor:
            inputs, labels = batches.next()
            own, others = inputs[:touched], inputs.roll(touched, 0)[:touched]
            sources = torch.cat([own[:poisoned], others[poisoned:]])
            patterns = generators.patterns(sources)
            triggered = show(own, patterns, generators.masks(sources))
            goals = goal_labels(labels[:poisoned], workshop.train.classes)
            with workshop.compute.autocast():
                logits = model(torch.cat([triggered, inputs[touched:]]))
                loss = nn.functional.cross_entropy(logits, torch.cat([goals, labels[poisoned:]]))
            return loss + self.lambda_div * diversity(sources, patterns)

        return loss_of_step

    def _optimizer(self, workshop: Workshop, generators: Generators, model: Classifier) -> torch.optim.Optimizer:
        """The classifier's SGD, which lets the generator's Adam go first."""
        recipe = workshop.supervised
        drawn = list(generators.pattern.parameters())
        adam = torch.optim.Adam(drawn, lr=self.lr_pattern, betas=MOMENTS)
        # The generator's parameters are listed so that gradients reach them; Adam takes the gradients away, and SGD
        # passes over parameters that have none.
        sgd = torch.optim.SGD(
            [{"params": list(model.parameters())}, {"params": drawn}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

        def adam_first(*_: Any) -> None:
            adam.step()
            adam.zero_grad(set_to_none=True)

        sgd.register_step_pre_hook(adam_first)
        return sgd

    def _shares(self, batch: int) -> tuple[int, int]:
        """How many of `batch` images are poisoned, and how many carry another's trigger: at least one each."""
        poisoned, crossed = round(self.p_attack * batch), round(self.p_cross * batch)
        for name, count in (("p_attack", poisoned), ("p_cross", crossed)):
            if count == 0:
                raise BadInput(f"attack.{name}: {getattr(self, name):g} of a batch of {batch} images is none")
        if poisoned + crossed >= batch:
            raise BadInput(
                f"attack: {self.kind} needs batches with images to poison, to cross and to leave alone; "
                f"{batch} image(s) are too few"
            )
        return poisoned, crossed


def _batches(workshop: Workshop, seed: int) -> Batches:
    return Batches(workshop.train, workshop.supervised.batch_size, workshop.augment, workshop.compute, seed)


def diversity(images: Tensor, drawn: Tensor) -> Tensor:
    """Return how much less the maps `drawn` (n, k, h, w) differ than their `images` (n, c, h, w), from one to the next.

    The mean ratio of root mean square distances, each image compared with the one before it in the batch.
    """
    return (_distances(images) / _distances(drawn)).mean()


def _distances(maps: Tensor) -> Tensor:
    squares = (maps - maps.roll(1, 0)).square().mean((1, 2, 3))
    return (squares + 1e-6).sqrt()  # so that two maps that are the same still have a gradient
