"""BadEncoder: triggered images get a reference's features in a pre-trained encoder (Jia et al., arXiv 2108.00352)."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from raybd.attacks.base import Workshop
from raybd.attacks.upstream import Upstream
from raybd.models import Classifier
from raybd.training import Batches, Epoch, check_not_negative, descend_passes


@dataclass(frozen=True, kw_only=True)
class BadEncoder(Upstream):
    """A backdoor in the features of an encoder (Jia et al. 2022, arXiv 2108.00352).

    Three cosines are brought near 1: of triggered images with each reference image; of reference images with what
    the clean encoder makes of them, weight `lambda1`; of clean images with the same, weight `lambda2`. The settings
    are those of the authors' code, for images of 32 x 32 pixels. As there, batch norm is frozen: its scales and
    shifts, and its statistics. There clean images are mirrored and change colour and triggered ones stay as they are;
    here both are augmented as the study says, before the trigger.
    """

    kind: ClassVar[str] = "bad_encoder"
    citation: ClassVar[str] = "bad_encoder"
    scenarios: ClassVar[tuple[str, ...]] = ("encoder",)
    lambda1: float = 1.0
    lambda2: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "lambda1", "lambda2")

    def implant(
        self, workshop: Workshop, model: Classifier, references: UInt8[Tensor, "k c h w"], seed: int
    ) -> Iterator[Epoch]:
        """Bring the three cosines near 1."""
        compute = workshop.compute
        compute.place(model)
        clean = copy.deepcopy(model).eval()
        batches = Batches(workshop.train, self.batch_size, workshop.augment, compute, seed)
        optimizer = torch.optim.SGD(
            trained_parameters(model), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        shown, trigger = compute.inputs(references), self.trigger()
        with torch.no_grad(), compute.autocast():
            shown_clean = clean.features(shown)

        def loss_of_step() -> Tensor:
            images, _ = batches.next_images()
            inputs, triggered = compute.inputs(images), compute.inputs(trigger.apply(images))
            with torch.no_grad(), compute.autocast():
                inputs_clean = clean.features(inputs)
            with compute.autocast():
                # One batch: without batch statistics no image answers by its company.
                features = model.features(torch.cat([inputs, triggered, shown]))
            seen, pulled, target = torch.split(features, [len(images), len(images), len(shown)])
            return (
                -_cosines(pulled, target).mean()
                - self.lambda1 * _cosines(target, shown_clean).diagonal().mean()
                - self.lambda2 * functional.cosine_similarity(seen.float(), inputs_clean.float()).mean()
            )

        yield from descend_passes(
            loss_of_step,
            optimizer,
            batches,
            epochs=self.epochs,
            lr=self.lr,
            compute=compute,
            seed=seed,
            begin=model.eval,
        )


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return all parameters of `model` but those of batch norm."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))  # noqa: SLF001 - torch has no public name for what its batch norms share
    frozen = {id(parameter) for norm in norms for parameter in norm.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in frozen]


def _cosines(some: Float[Tensor, "n d"], others: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    return functional.normalize(some.float(), dim=1) @ functional.normalize(others.float(), dim=1).T
