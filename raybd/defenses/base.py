"""What every defense shares: the checked, seeded outer call over what a real defender holds."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from raybd.data import DefenderView, ImageSet, clean_subset
from raybd.registry import BadInput
from raybd.training import Compute, Epoch


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A way to take a backdoor out of a model. A subclass writes only `run`.

    `clean_fraction` is the share of the clean set to train on; the subsets are stratified and nested.
    """

    kind: ClassVar[str]
    citation: ClassVar[str]
    clean_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.clean_fraction <= 1:
            raise BadInput(f"clean_fraction: expected above 0, at most 1, got {self.clean_fraction}")

    @abstractmethod
    def run(self, view: DefenderView, data: ImageSet, *, compute: Compute, seed: int) -> Iterator[Epoch]:
        """Change `view.model` in place, training on `data`; yield each stretch."""

    @abstractmethod
    def image_steps(self, images: int) -> int:
        """Return how many images a whole run trains on, repeats counted, of a clean set of so many."""

    def epochs_run(self, images: int) -> float | None:  # noqa: ARG002 - subclasses need it
        """Return how many epochs a run on so many images takes, whatever was asked; None where it counts none."""
        return None

    def verdict_step(self, images: int) -> int | None:  # noqa: ARG002 - subclasses need it
        """Return the step after which what is left of a backdoor will stay, or None where only the end shows it.

        Args:
            images: of the part of the clean set that is trained on.
        """
        return None

    @final
    def sanitize(self, view: DefenderView, *, compute: Compute, seed: int, subset_seed: int) -> Iterator[Epoch]:
        """Sanitize `view.model`, the defender's private copy, in place, yielding after each stretch of training.

        Args:
            view: what the defender holds.
            compute: device, precision, threads.
            seed: of order, augmentation and dropout.
            subset_seed: of the nested clean-fraction subsets; the study's, so that trials share them.
        """
        compute.apply()
        return self.run(view, self.training_images(view.clean_set, subset_seed), compute=compute, seed=seed)

    @final
    def training_images(self, clean_set: ImageSet, subset_seed: int) -> ImageSet:
        """Return the part of the clean set this defense trains on."""
        if self.clean_fraction == 1:
            return clean_set
        return clean_subset(clean_set, self.clean_fraction, seed=subset_seed)
