"""Super-fine-tuning: a cyclic rate with a large peak, then a smaller one (Sha et al. 2022, arXiv 2212.09067)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raybd import schedules
from raybd.data import DefenderView, ImageSet
from raybd.defenses.base import Defense
from raybd.registry import BadInput
from raybd.schedules import Schedule
from raybd.training import Compute, Epoch, check_not_negative, check_positive, fit, steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class SuperFineTuning(Defense):
    """Fine-tune the whole model while the rate swings from `lr_base` to `lr_max1`, later to `lr_max2`.

    `phase1_share` is the share of all steps under `lr_max1`; both phases are rounded up to whole cycles of
    `ramp_up_steps + ramp_down_steps`, at least one in each. So `epochs` is the least that is run, and on few images
    more are: two cycles of 20 steps are 20 epochs of 150 images in batches of 128. Any order of positive rates is
    legal.
    """

    kind: ClassVar[str] = "super_fine_tuning"
    citation: ClassVar[str] = "super_fine_tuning"
    lr_base: float
    lr_max1: float
    lr_max2: float
    epochs: int
    phase1_share: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    ramp_up_steps: int = 10
    ramp_down_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "lr_base lr_max1 lr_max2 epochs batch_size ramp_up_steps ramp_down_steps"
        check_positive(self, *names.split())
        if not 0 < self.phase1_share < 1:
            raise BadInput(f"phase1_share: expected between 0 and 1, got {self.phase1_share}")
        check_not_negative(self, "momentum", "weight_decay")

    @property
    def cycle_steps(self) -> int:
        """Steps of one cycle."""
        return self.ramp_up_steps + self.ramp_down_steps

    def phases(self, images: int) -> tuple[int, int]:
        """Return (steps of phase 1, steps in all) for a clean set of so many images."""
        wanted = self.epochs * steps_per_epoch(images, self.batch_size)
        return schedules.whole_cycles(wanted, self.phase1_share, self.cycle_steps)

    def verdict_step(self, images: int) -> int | None:
        """Return where phase 1 ends: a smaller peak does not remove what the larger one left."""
        return self.phases(images)[0] if self.lr_max2 <= self.lr_max1 else None

    def plan(self, images: int) -> tuple[Schedule, int]:
        """Return the schedule and the number of steps for a clean set of so many images."""
        phase1, steps = self.phases(images)
        schedule = schedules.super_fine_tuning(
            self.lr_base, self.lr_max1, self.lr_max2, self.ramp_up_steps, self.ramp_down_steps, phase1
        )
        return schedule, steps

    def image_steps(self, images: int) -> int:
        """Return how many images a whole run trains on, repeats counted, of a clean set of so many."""
        return self.plan(images)[1] * min(self.batch_size, images)

    def epochs_run(self, images: int) -> float:
        """Return how many epochs a run takes: more than `epochs` where whole cycles need more steps."""
        return self.plan(images)[1] / steps_per_epoch(images, self.batch_size)

    def run(self, view: DefenderView, data: ImageSet, *, compute: Compute, seed: int) -> Iterator[Epoch]:
        """Train all layers on `data`, yielding each cycle."""
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
            cycle_steps=self.cycle_steps,
        )
