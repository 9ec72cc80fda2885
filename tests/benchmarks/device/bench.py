"""What every way runs: the same suspect, the same jobs, and the records of how they ended."""

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn

from raybd import seeds
from raybd.defenses import SuperFineTuning
from raybd.registry import BadInput
from raybd.search.view import SearchView


@dataclass(frozen=True, kw_only=True)
class Job:
    """One setting with one seed; `index` says which, the same for every way."""

    index: int
    defense: SuperFineTuning
    seed: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How one job ended; rates in [0, 1] on selection.

    `loss` is the mean over the last quarter of the last cycle, `distance` the L2 norm of what changed in the
    weights: the two that can be compared where the images are noise. None where a figure is not finite.
    """

    index: int
    clean_accuracy: float
    attack_success_rate: float
    loss: float | None
    distance: float | None


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of a way, all its settings at once: seconds by what they went to, and how the jobs ended.

    `steps` of each setting were taken; `finished` is empty where the round was cut short.
    """

    start_seconds: float
    training_seconds: float
    steps: int
    evaluation_seconds: float
    finished: tuple[Finished, ...] = ()


class Runner(Protocol):
    """An opened way: warmed up, so that what it cost to prepare is paid once."""

    size: int

    def round(self, jobs: Sequence[Job], seconds: float) -> Round:
        """Run `size` jobs at once; training may be cut short after so many seconds."""

    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A suspect and the settings that every way runs on it.

    All settings share steps, batch size, momentum and weight decay, so that they fit into one pack.
    """

    view: SearchView
    settings: tuple[SuperFineTuning, ...]
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        images = len(self.view.clean_set)
        shapes = {
            (d.plan(images)[1], d.batch_size, d.momentum, d.weight_decay, d.cycle_steps, d.clean_fraction)
            for d in self.settings
        }
        if len(shapes) != 1 or self.settings[0].clean_fraction != 1:
            raise BadInput(f"settings: expected equal steps, batch size, momentum and weight decay, got {shapes}")
        object.__setattr__(self, "steps", self.settings[0].plan(images)[1])

    @property
    def common(self) -> SuperFineTuning:
        """A setting, for what all of them share."""
        return self.settings[0]

    @property
    def last_steps(self) -> int:
        """So many steps at the end make the loss of a job, as `raybd.training.fit` reports it."""
        return max(1, self.common.cycle_steps // 4)

    def job(self, index: int) -> Job:
        """Job `index`: the settings in turn, then again with the next seed."""
        seed = seeds.derive(0, "fill_device", index // len(self.settings))
        return Job(index=index, defense=self.settings[index % len(self.settings)], seed=seed)

    def jobs(self, first: int, count: int) -> tuple[Job, ...]:
        """Return `count` jobs from `first` on."""
        return tuple(self.job(first + i) for i in range(count))

    def suspect(self) -> nn.Module:
        """Return a copy of the suspect on the device."""
        return self.view.compute.place(self.view.defender().model)

    def save(self, path: Path) -> None:
        """Write the bench for processes of their own."""
        packed = {"view": self.view.pack(), "settings": self.settings}
        path.write_bytes(pickle.dumps(packed))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, by a process of this very run."""
        packed: dict[str, Any] = pickle.loads(path.read_bytes())
        return cls(view=SearchView.unpack(packed["view"]), settings=packed["settings"])

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        if self.view.compute.device == "cuda":
            torch.cuda.synchronize()


def finite(value: float) -> float | None:
    """Return `value`, or None where JSON could not hold it."""
    return value if math.isfinite(value) else None
