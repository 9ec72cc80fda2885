"""Conventional fine-tuning on clean data, of the whole model or of its head only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from raybd import schedules
from raybd.data import DefenderView, ImageSet
from raybd.defenses.base import Defense
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.schedules import Schedule
from raybd.training import Compute, Epoch, check_not_negative, check_positive, fit, steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class FineTuning(Defense):
    """Fine-tune with a cosine rate from `lr` to zero. `scope` says what is trained: `whole` or `head`.

    The defaults are BackdoorBench's (arXiv 2206.12654): SGD 0.01, momentum 0.9, weight decay 5e-4, batch 256,
    100 epochs, cosine.
    """

    kind: ClassVar[str] = "fine_tuning"
    citation: ClassVar[str] = "backdoorbench"
    lr: float = 0.01
    epochs: int = 100
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scope: Literal["whole", "head"] = "whole"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lr", "epochs", "batch_size")
        check_not_negative(self, "momentum", "weight_decay")

    def plan(self, images: int) -> tuple[Schedule, int]:
        """Return the schedule and the number of steps for a clean set of so many images."""
        steps = self.epochs * steps_per_epoch(images, self.batch_size)
        return schedules.cosine(self.lr, steps), steps

    def image_steps(self, images: int) -> int:
        """Return how many images a whole run trains on, repeats counted, of a clean set of so many."""
        return self.plan(images)[1] * min(self.batch_size, images)

    def epochs_run(self, images: int) -> float:  # noqa: ARG002 - it is what was asked, on any number
        """Return how many epochs a run takes: those that were asked for."""
        return self.epochs

    def run(self, view: DefenderView, data: ImageSet, *, compute: Compute, seed: int) -> Iterator[Epoch]:
        """Train on `data`, yielding each epoch."""
        schedule, steps = self.plan(len(data))
        return fit(
            view.model,
            data,
            steps=steps,
            batch_size=self.batch_size,
            schedule=schedule,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            augment=view.augment,
            compute=compute,
            seed=seed,
            part=_head(view) if self.scope == "head" else None,
        )


def _head(view: DefenderView) -> nn.Linear:
    if not isinstance(view.model, Classifier):
        raise BadInput(f"scope: 'head' needs a raybd Classifier, got {type(view.model).__name__}")
    return view.model.head
