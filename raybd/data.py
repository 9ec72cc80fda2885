"""What the rest of raybd needs to know of data: loading and splits, clean subsets, what a defender holds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from raybd.images import flip, pad_and_crop
from raybd.imagesets import ImageSet, Source
from raybd.registry import BadInput
from raybd.sources import load_source
from raybd.splits import Part, SplitPlan, Splits, split, stratified_order

__all__ = [
    "Augment",
    "DefenderView",
    "ImageSet",
    "Part",
    "Source",
    "SplitPlan",
    "Splits",
    "clean_subset",
    "load_source",
    "split",
    "stratified_order",
]


def clean_subset(clean_set: ImageSet, fraction: float, *, seed: int) -> ImageSet:
    """Return a stratified `fraction` (0, 1] of the clean set, in its order.

    Subsets are nested: a smaller fraction lies within a larger one of the same seed. Each class present keeps
    at least one image where there is room for all of them.

    Raises:
        BadInput: if `fraction` lies outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise BadInput(f"clean_fraction: expected a number in (0, 1], got {fraction}")
    order = stratified_order(clean_set.labels, seed=seed)
    labels = clean_set.labels[order]
    first = torch.zeros(len(order), dtype=torch.bool)
    first[np.unique(labels.numpy(), return_index=True)[1]] = True
    order = torch.cat([order[first], order[~first]])
    size = max(1, int(fraction * len(clean_set) + 0.5))
    return clean_set.subset(order[:size].sort().values)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What training does to its images at random: shifts by up to `crop` pixels each way, and mirroring."""

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise BadInput(f"crop: expected 0 pixels or more, got {self.crop}")

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        """Return augmented copies of `images`; every draw comes from `generator`."""
        if self.crop:
            images = pad_and_crop(images, self.crop, generator)
        if self.flip:
            images = flip(images, torch.rand(len(images), generator=generator, device=generator.device) < 0.5)
        return images


@dataclass(frozen=True, kw_only=True, eq=False)
class DefenderView:
    """What a real defender holds; no field carries a trigger.

    Attributes:
        model: a private copy of the suspect, which the defense changes.
        fresh_model: gives an untrained model of the same architecture for a seed.
        clean_set: the defender's clean images.
        training_set: the suspect's whole, possibly poisoned training set; None when the defender has none.
        augment: what training does to its images.
    """

    model: nn.Module
    fresh_model: Callable[[int], nn.Module]
    clean_set: ImageSet
    training_set: ImageSet | None
    augment: Augment
