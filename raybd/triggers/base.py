"""What every trigger shares: the goal it serves, its checks against the images, and its digest."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from raybd.registry import BadInput

Goal = Literal["all_to_one", "all_to_all"]


@dataclass(frozen=True, kw_only=True)
class Trigger(ABC):
    """A change to images that makes a backdoored model answer what the attacker wants, whatever they show.

    `goal` says what that is: `all_to_one` is `target_label`, `all_to_all` the label after the true one, the last
    one's being 0 (BadNets, arXiv 1708.06733). A `target_label` of None is not known yet: `check` refuses it.
    """

    kind: ClassVar[str]
    citation: ClassVar[str]
    target_label: int | None = None
    goal: Goal = "all_to_one"

    def __post_init__(self) -> None:
        check_goal(self.target_label, self.goal)

    @abstractmethod
    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return triggered copies of `images`."""

    @abstractmethod
    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput unless the trigger can be put on images of `shape` (c, h, w)."""

    def goal_labels(self, labels: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, " n"]:
        """Return the label the attacker wants for each image of a task with so many classes."""
        if self.goal == "all_to_all":
            return (labels + 1) % classes
        assert self.target_label is not None  # `check` has refused it
        return torch.full_like(labels, self.target_label)

    @property
    def aimed(self) -> bool:
        """Whether it is known what the trigger is for."""
        return self.goal == "all_to_all" or self.target_label is not None

    def aimed_at(self, label: int | None) -> Self:
        """Return this trigger with another target: what it pulls to on another task, None while that is unknown."""
        return replace(self, target_label=label, goal="all_to_one")

    def check(self, shape: tuple[int, int, int], classes: int) -> None:
        """Raise BadInput unless the trigger fits images of `shape` and its target is one of `classes`."""
        if not self.aimed:
            raise BadInput(f"trigger.target_label: missing; expected 0 to {classes - 1}")
        if self.target_label is not None and not 0 <= self.target_label < classes:
            raise BadInput(f"trigger.target_label: expected 0 to {classes - 1}, got {self.target_label}")
        self.fit_to(shape)

    def probes(self, shape: tuple[int, int, int]) -> UInt8[Tensor, "n c h w"]:
        """Return images on which triggers that differ show it: a black, a grey and a white one."""
        return torch.stack([torch.full(shape, value, dtype=torch.uint8) for value in (0, 128, 255)])

    def digest(self, shape: tuple[int, int, int]) -> str:
        """Return the SHA-256 of what the trigger does to its probes, and of its goal."""
        done = self.apply(self.probes(shape)).numpy().tobytes()
        aim = self.goal if self.target_label is None else str(self.target_label)
        return hashlib.sha256(done + aim.encode()).hexdigest()


def check_goal(target_label: int | None, goal: Goal) -> None:
    """Raise BadInput where every image has its own goal and yet a target is given."""
    if goal == "all_to_all" and target_label is not None:
        raise BadInput(f"target_label: got {target_label}, but with goal all_to_all every label has its own")
