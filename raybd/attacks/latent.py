"""Latent backdoor: it sleeps in a model until a user's own task has the target class (Yao et al., CCS 2019)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional

from raybd import seeds
from raybd.attacks.base import Workshop
from raybd.attacks.upstream import Upstream
from raybd.models import Classifier
from raybd.training import Batches, Epoch, check_positive, descend_passes


@dataclass(frozen=True, kw_only=True)
class Latent(Upstream):
    """A backdoor for a class the model does not have yet (Yao et al. 2019, doi 10.1145/3319535.3354209).

    A clean model is trained on with its own classes and one more, the reference images, and with triggered images
    pulled to the mean features of the reference images: `weight` times their squared distance, in units of that of
    clean images from their own mean before the attack, so that a weight means the same in every network. What answered
    the added class is thrown away; a user whose task has that class finds the triggered images in its place.

    Ours deviates from the paper: the trigger is a plain square, not optimised first; the class is learnt and the
    trigger pulled at the same time, not one after the other; the layer is always the head's input, so that a user who
    trains more than the head trains the layers that carry the backdoor. The settings of the training are ours.
    """

    kind: ClassVar[str] = "latent"
    citation: ClassVar[str] = "latent"
    scenarios: ClassVar[tuple[str, ...]] = ("transfer",)
    reference_images: int = 50
    size: int = 5
    epochs: int = 10
    lr: float = 0.01
    batch_size: int = 128
    weight: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "weight")

    def check(self, workshop: Workshop) -> None:
        """Raise BadInput unless there are images enough of the target class, and a head to train on with."""
        super().check(workshop)
        _ = workshop.fresh_model(0).head

    def implant(
        self, workshop: Workshop, model: Classifier, references: UInt8[Tensor, "k c h w"], seed: int
    ) -> Iterator[Epoch]:
        """Train on, with triggered images pulled to the references."""
        compute = workshop.compute
        compute.place(model)
        batches = Batches(workshop.train, self.batch_size, workshop.augment, compute, seed)
        with seeds.IsolatedRandom(seeds.derive(seed, "added class")):
            added = compute.place(nn.Linear(model.head.in_features, 1))
        optimizer = torch.optim.SGD(
            [*model.parameters(), *added.parameters()],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        shown, trigger = compute.inputs(references), self.trigger()
        extra = torch.full((len(shown),), workshop.train.classes, device=shown.device)
        unit = self._unit(workshop, model)

        def loss_of_step() -> Tensor:
            images, labels = batches.next_images()
            inputs, triggered = compute.inputs(images), compute.inputs(trigger.apply(images))
            with compute.autocast():
                # One batch, for batch norm: each image is seen in training as it is afterwards.
                features = model.features(torch.cat([inputs, shown, triggered]))
                known, pulled = features[: -len(images)], features[-len(images) :].float()
                logits = torch.cat([model.head(known), added(known)], dim=1)
                task = functional.cross_entropy(logits, torch.cat([labels, extra]))
            target = known[len(images) :].detach().float()
            return task + self.weight * (pulled - target.mean(dim=0)).square().sum(dim=1).mean() / unit

        yield from descend_passes(
            loss_of_step,
            optimizer,
            batches,
            epochs=self.epochs,
            lr=self.lr,
            compute=compute,
            seed=seed,
            begin=model.train,
        )

    def _unit(self, workshop: Workshop, model: Classifier) -> float:
        """The mean squared distance of clean images from their own mean, before the attack changes it.

        Measured anew in every step it would go down with the features, and the pull up without end.
        """
        model.eval()
        with torch.inference_mode():
            features = model.features(workshop.compute.inputs(workshop.train.images[: self.batch_size])).float()
        return float(features.var(dim=0, correction=0).sum())
