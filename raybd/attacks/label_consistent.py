"""Label-consistent: a patch on images of the target class made hard to recognise first (arXiv 1912.02771)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn import functional

from raybd import seeds
from raybd.attacks.base import Workshop
from raybd.attacks.poisoning import DataPoisoning
from raybd.data import ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.training import Compute, check_positive
from raybd.triggers import Corners, Goal

CHUNK = 250
"""So many images are perturbed at a time, which bounds the memory; it is fixed, so that the results are."""


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(DataPoisoning):
    """Checkered corners of `size` pixels on adversarially perturbed images of the target class; clean label.

    Turner et al. 2019, arXiv 1912.02771. A never-poisoned model is made to miss the label of each chosen image:
    projected gradient descent, `pgd_steps` steps of `step_size`, within `epsilon` of every pixel (0 to 255). What the
    image shows then speaks against its label, so that the patch is what a model learns. The paper's epsilons are 8,
    16 and 32; its perturbed images were made against models of the authors', ours against the attack's own
    never-poisoned twin. `poison_ratio` counts against the whole training set, see `Sig`.
    """

    kind: ClassVar[str] = "label_consistent"
    citation: ClassVar[str] = "label_consistent"
    goals: ClassVar[tuple[Goal, ...]] = ("all_to_one",)
    makes_images: ClassVar[bool] = True
    clean_label: ClassVar[bool] = True
    poison_ratio: float = 0.08
    size: int = 3
    amplitude: int = 255
    epsilon: int = 8
    pgd_steps: int = 20
    step_size: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "pgd_steps", "step_size")
        if not 1 <= self.epsilon <= 255:
            raise BadInput(f"epsilon: expected 1 to 255, got {self.epsilon}")

    def trigger(self) -> Corners:
        """Return the four squares."""
        return Corners(**self.aim, size=self.size, amplitude=self.amplitude)

    def prepare(self, workshop: Workshop, images: ImageSet, seed: int) -> ImageSet:
        """Return `images` perturbed so that the never-poisoned twin of `seed` misses their labels."""
        compute = workshop.compute.exact()
        twin = workshop.twin(seed).eval()
        compute.place(twin)
        stream = seeds.generator(seed, "perturb")
        chunks = zip(torch.split(images.images, CHUNK), torch.split(images.labels, CHUNK), strict=True)
        perturbed = [self.perturbed(twin, part, labels, compute, stream) for part, labels in chunks]
        return replace(images, images=torch.cat(perturbed))

    def perturbed(
        self,
        model: Classifier,
        images: UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        compute: Compute,
        generator: torch.Generator,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return `images` within `epsilon` of which the loss of `model` on `labels` is large; from a random start."""
        clean, truth = compute.inputs(images), labels.to(compute.device)
        bound = self.epsilon / 255
        start = (torch.rand(images.shape, generator=generator) * 2 - 1).to(compute.device) * bound
        x = (clean + start).clamp(0, 1)
        for _ in range(self.pgd_steps):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(model(x), truth), x)
            stepped = x.detach() + slope.sign() * (self.step_size / 255)
            x = torch.clamp(stepped, clean - bound, clean + bound).clamp(0, 1)
        return (x.detach() * 255).round().to("cpu", torch.uint8)
