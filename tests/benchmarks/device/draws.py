"""The random draws of whole trainings, made before they start, so that a step asks the host for nothing.

They are the draws of `raybd.training.fit`: the same seed gives the same batches, shifts and mirrors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from raybd import seeds
from raybd.data import Augment


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """For each step and each of K trainings: which images (b,), shifted how far, mirrored or not.

    All tensors are (steps, K, b): `chosen`, `down`, `right` int64, `mirrored` bool.
    """

    chosen: Tensor
    down: Tensor
    right: Tensor
    mirrored: Tensor

    @classmethod
    def of(cls, job_seeds: Sequence[int], *, images: int, batch_size: int, steps: int, augment: Augment) -> Self:
        """Draw for one training per seed, on `images` images; batches are full, of fewer images if need be."""
        size = min(batch_size, images)
        drawn = [_one(seed, images, size, steps, augment) for seed in job_seeds]
        stacked = (torch.stack(parts, dim=1) for parts in zip(*drawn, strict=True))
        return cls(**dict(zip((f.name for f in fields(cls)), stacked, strict=True)))

    def to(self, device: str) -> "Draws":
        """Return the draws on `device`."""
        return Draws(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def copy_(self, other: "Draws") -> None:
        """Take over the values of `other`, in place: a captured graph reads the same memory again."""
        for f in fields(self):
            getattr(self, f.name).copy_(getattr(other, f.name))

    def at(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four draws of the step that `step` (1,) on the device counts, each (K * b,)."""
        taken = (getattr(self, f.name).index_select(0, step).flatten() for f in fields(self))
        chosen, down, right, mirrored = taken
        return chosen, down, right, mirrored


def _one(seed: int, images: int, size: int, steps: int, augment: Augment) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The draws of one training, in the order in which `fit` makes them."""
    stream = seeds.generator(seed, "batches")
    order = torch.empty(0, dtype=torch.int64)
    chosen, shifts, mirrored = [], [], []
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(images, generator=stream)])
        chosen.append(order[:size])
        order = order[size:]
        if augment.crop:
            shifts.append(torch.randint(0, 2 * augment.crop + 1, (2, size, 1), generator=stream)[..., 0])
        if augment.flip:
            mirrored.append(torch.rand(size, generator=stream) < 0.5)
    shift = torch.stack(shifts) if shifts else torch.zeros(steps, 2, size, dtype=torch.int64)
    mirror = torch.stack(mirrored) if mirrored else torch.zeros(steps, size, dtype=torch.bool)
    return torch.stack(chosen), shift[:, 0], shift[:, 1], mirror


def padded(images: Tensor, augment: Augment) -> Tensor:
    """Return `images` with the black border that shifts draw from; made once, not in each step."""
    return functional.pad(images, (augment.crop,) * 4)


def augmented(
    bordered: Tensor, shape: tuple[int, int], chosen: Tensor, down: Tensor, right: Tensor, mirrored: Tensor
) -> Tensor:
    """Return the chosen images (m, c, h, w) of `padded` ones, shifted and mirrored, in one gather.

    The gather leaves the channels last in memory.
    """
    height, width = shape
    rows = down[:, None] + torch.arange(height, device=bordered.device)
    along = torch.arange(width, device=bordered.device)
    columns = right[:, None] + torch.where(mirrored[:, None], width - 1 - along, along)
    return bordered[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
