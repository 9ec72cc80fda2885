"""Labelled uint8 images in memory, and a data set of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from raybd.registry import BadInput


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images with labels, held in memory.

    Attributes:
        images: uint8 (n, c, h, w), 0..255; may be empty.
        labels: int64 (n,), each in [0, classes).
        classes: how many classes the task has, whether or not all occur here.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, "n"]
    classes: int

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise BadInput(f"images: expected uint8 (n, c, h, w), got {_facts(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise BadInput(f"labels: expected int64 ({len(self.images)},), got {_facts(self.labels)}")
        wrong = (self.labels < 0) | (self.labels >= self.classes)
        if wrong.any():
            raise BadInput(
                f"labels: expected 0..{self.classes - 1} ({self.classes} classes), "
                f"got {int(self.labels[wrong][0])} at index {int(wrong.nonzero()[0])}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (c, h, w) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, indices: Int64[Tensor, "m"] | Sequence[int]) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return ImageSet(images=self.images[index], labels=self.labels[index], classes=self.classes)

    def digest(self) -> str:
        """Return the SHA-256, in hex, of images, labels, shape and number of classes."""
        digest = hashlib.sha256(f"{tuple(self.images.shape)} {self.classes}".encode())
        digest.update(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A data set as it came: a train part and, where the data set has one, a test part."""

    train: ImageSet
    test: ImageSet | None
    name: str

    def part(self, origin: str) -> ImageSet:
        """Return the part called `origin`, 'train' or 'test'.

        Raises:
            BadInput: if this source has no test part.
        """
        chosen = self.train if origin == "train" else self.test
        if chosen is None:
            raise BadInput(f"{self.name} has no test part")
        return chosen


def _facts(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
