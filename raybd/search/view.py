"""What a search sees of a suspect, and how that travels to the processes that run its trials."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Bool
from torch import Tensor

from raybd.data import Augment, DefenderView, ImageSet, stratified_order
from raybd.evaluation.metrics import Rate
from raybd.models import Architecture, Classifier
from raybd.training import Compute
from raybd.triggers import Trigger
from raybd.weights import load_into


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchView:
    """All that a search may see of a suspect: never a test image.

    Attributes:
        architecture: how to build the network.
        state: the suspect's weights, under the network's own names.
        clean_set: what a defense trains on.
        selection: what a trial is measured on.
        trigger: what steers the search.
        augment: of the training images.
        compute: device, precision, threads of every trial.
        seed: of the nested clean-fraction subsets, the same for all trials.
        reference_correct: for each selection image, whether the reference model is right on it.
    """

    architecture: Architecture
    state: Mapping[str, Tensor]
    clean_set: ImageSet
    selection: ImageSet
    trigger: Trigger
    augment: Augment
    compute: Compute
    seed: int
    reference_correct: Bool[Tensor, " n"]

    def pack(self) -> dict[str, Any]:
        """Return the view as NumPy arrays and small objects; Ray's object store shares the arrays."""
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.state.items()}
        names = ("architecture", "trigger", "augment", "compute", "seed")
        return {
            **{name: getattr(self, name) for name in names},
            "state": np.frombuffer(safetensors.torch.save(state), dtype=np.uint8),
            "clean_set": _packed(self.clean_set),
            "selection": _packed(self.selection),
            "reference_correct": self.reference_correct.cpu().numpy(),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Self:
        """Return the view that `pack` packed, its images on the device.

        Everything is copied: arrays of the object store are shared with every other trial of the machine, and
        torch would write through them.
        """
        view = cls(
            **{
                **packed,
                "state": safetensors.torch.load(packed["state"].tobytes()),
                "clean_set": _unpacked(packed["clean_set"]),
                "selection": _unpacked(packed["selection"]),
                "reference_correct": torch.from_numpy(packed["reference_correct"].copy()),
            }
        )
        return view.on_device()

    def on_device(self) -> Self:
        """Return the view with its images where they are computed on; labels stay on the CPU."""
        device = self.compute.device
        clean_set = replace(self.clean_set, images=self.clean_set.images.to(device))
        selection = replace(self.selection, images=self.selection.images.to(device))
        return replace(self, clean_set=clean_set, selection=selection)

    @functools.cached_property
    def _suspect(self) -> Classifier:
        model = self.architecture.build(self.seed)
        load_into(model, self.state)
        return model

    @functools.cached_property
    def reference_accuracy(self) -> Rate:
        """C-Acc of the reference model on selection."""
        return Rate.of(int(self.reference_correct.sum()), len(self.reference_correct))

    def part(self, images: int) -> Self:
        """Return the view with a stratified part of so many selection images, the same for every trial."""
        if images >= len(self.selection):
            return self
        rows = stratified_order(self.selection.labels, seed=self.seed)[:images]
        return replace(self, selection=self.selection.subset(rows), reference_correct=self.reference_correct[rows])

    def defender(self) -> DefenderView:
        """Return what a real defender holds, with a private copy of the model."""
        return DefenderView(
            model=copy.deepcopy(self._suspect),
            fresh_model=self.architecture.build,
            clean_set=self.clean_set,
            training_set=None,
            augment=self.augment,
        )


def _packed(images: ImageSet) -> dict[str, Any]:
    return {"images": images.images.cpu().numpy(), "labels": images.labels.numpy(), "classes": images.classes}


def _unpacked(packed: Mapping[str, Any]) -> ImageSet:
    tensors = {name: torch.from_numpy(packed[name].copy()) for name in ("images", "labels")}
    return ImageSet(**tensors, classes=packed["classes"])
