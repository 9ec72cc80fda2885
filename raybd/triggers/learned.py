"""Triggers that were learnt: their tensors travel with them and lie beside the suspect as safetensors."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, final

from torch import Tensor

from raybd.registry import BadInput, describe, is_file
from raybd.triggers.base import Trigger
from raybd.weights import read_safetensors, save_weights


@dataclass(frozen=True, kw_only=True)
class Learned(Trigger):
    """A trigger with tensors of its own: from `learnt` by an attack, or from the safetensors file `weights`.

    A subclass says in `expected` which tensors it needs and of what number of dimensions, and may look closer in
    `check_tensors`. Two learned triggers are equal when their fields are; their digests tell their tensors apart.
    """

    weights: Path | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None:
            object.__setattr__(self, "tensors", self._checked(_read(self.weights)))

    @classmethod
    def learnt(cls, tensors: Mapping[str, Tensor], **fields: Any) -> Self:
        """Return the trigger that consists of `tensors`."""
        return cls(**fields).with_tensors(tensors)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return this trigger with `tensors` in place of its own."""
        trigger = replace(self, weights=None)
        object.__setattr__(trigger, "tensors", self._checked(tensors))
        return trigger

    def aimed_at(self, label: int | None) -> Self:
        """See `Trigger.aimed_at`; the tensors stay."""
        aimed = super().aimed_at(label)
        object.__setattr__(aimed, "tensors", self.tensors)
        return aimed

    def save(self, path: Path) -> None:
        """Write the tensors to `path` as safetensors."""
        save_weights(self.tensors, path)

    @final
    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """See `Trigger.fit_to`; one whose tensors are still unknown is refused too."""
        if not self.tensors:
            raise BadInput(f"trigger.weights: missing; a {self.kind} trigger is learnt, give its safetensors file")
        self.fit_tensors_to(shape)

    @abstractmethod
    def fit_tensors_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput unless the tensors suit images of `shape` (c, h, w)."""

    @final
    def digest(self, shape: tuple[int, int, int]) -> str:
        """Return the SHA-256 of the fields, the tensors and `shape`: what they draw may differ in a bit elsewhere."""
        hasher = hashlib.sha256(f"{shape} {describe(replace(self, weights=None))}".encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.contiguous().numpy().tobytes())
        return hasher.hexdigest()

    @classmethod
    @abstractmethod
    def expected(cls) -> Mapping[str, int]:
        """Return the names of the tensors this trigger needs, with their numbers of dimensions."""

    def check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise BadInput unless these tensors, of the expected names and dimensions, go together."""

    def _checked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        expected = self.expected()
        got = {name: tensor.ndim for name, tensor in tensors.items()}
        if got != dict(expected):
            raise BadInput(f"trigger.weights: expected tensors {dict(expected)} (name: dimensions), got {got}")
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise BadInput(f"trigger.weights: {name} holds values that are not finite")
        self.check_tensors(tensors)
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _read(path: Path) -> dict[str, Tensor]:
    if not is_file(path):
        raise BadInput(f"trigger.weights: no file {path.name} in {path.parent}")
    return read_safetensors(path, "trigger.weights")
