"""What an attacker does to an image at test time, and the goal it serves."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raybd import images as image_ops
from raybd import seeds
from raybd.registry import BadInput


@dataclass(frozen=True, kw_only=True)
class Trigger(ABC):
    """A change to images that makes a backdoored model answer `target_label`, whatever they show (all-to-one)."""

    kind: ClassVar[str]
    citation: ClassVar[str]
    target_label: int

    @abstractmethod
    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return triggered copies of `images`."""

    @abstractmethod
    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput unless the trigger can be put on images of `shape` (c, h, w)."""

    def goal_labels(self, labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Return the label the attacker wants for each image."""
        return torch.full_like(labels, self.target_label)

    def check(self, shape: tuple[int, int, int], classes: int) -> None:
        """Raise BadInput unless the trigger fits images of `shape` and its target is one of `classes`."""
        if not 0 <= self.target_label < classes:
            raise BadInput(f"trigger.target_label: expected 0 to {classes - 1}, got {self.target_label}")
        self.fit_to(shape)

    def digest(self, shape: tuple[int, int, int]) -> str:
        """Return the SHA-256 of what the trigger does to a black, a grey and a white image, and of its goal."""
        probe = torch.stack([torch.full(shape, value, dtype=torch.uint8) for value in (0, 128, 255)])
        done = self.apply(probe).numpy().tobytes()
        return hashlib.sha256(done + str(self.target_label).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Patch(Trigger):
    """A small opaque patch (BadNets, arXiv 1708.06733): a square of one `value`, or the picture in `image`.

    `row` and `column` place its upper left corner, in pixels; negative ones count from the lower right, so that
    the default, -1, puts the patch into that corner.
    """

    kind: ClassVar[str] = "patch"
    citation: ClassVar[str] = "badnets"
    size: int = 3
    row: int = -1
    column: int = -1
    value: int = 255
    image: Path | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput(f"size: expected at least 1 pixel, got {self.size}")
        if not 0 <= self.value <= 255:
            raise BadInput(f"value: expected 0 to 255, got {self.value}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return copies of `images` with the patch pasted in."""
        channels, height, width = images.shape[1:]
        patch = self._patch(channels).to(images.device)
        row = _start(self.row, patch.shape[1], height)
        return image_ops.paste(images, patch, row, _start(self.column, patch.shape[2], width))

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the patch sticks out of the image."""
        patch = self._patch(shape[0])
        for name, at, size, limit in (
            ("row", self.row, patch.shape[1], shape[1]),
            ("column", self.column, patch.shape[2], shape[2]),
        ):
            start = _start(at, size, limit)
            if start < 0 or start + size > limit:
                raise BadInput(
                    f"trigger: a patch of {size} pixels at {name} {at} sticks out of images of "
                    f"{shape[1]} x {shape[2]} pixels"
                )

    def _patch(self, channels: int) -> Tensor:
        if self.image is not None:
            return _picture(self.image, channels)
        return torch.full((channels, self.size, self.size), self.value, dtype=torch.uint8)


def _start(at: int, size: int, limit: int) -> int:
    return at if at >= 0 else limit - size + at + 1


@dataclass(frozen=True, kw_only=True)
class Blended(Trigger):
    """A picture blended over the whole image with weight `alpha` (arXiv 1712.05526).

    Without `image` the picture is uniform noise drawn from `seed`.
    """

    kind: ClassVar[str] = "blended"
    citation: ClassVar[str] = "blended"
    alpha: float = 0.2
    image: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise BadInput(f"alpha: expected above 0, at most 1, got {self.alpha}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the picture blended in."""
        pattern = self._pattern(tuple(images.shape[1:])).to(images.device)
        return image_ops.blend(images, pattern, self.alpha)

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the picture has another size than the images."""
        _same_size(self._pattern(shape), shape, "trigger.image")

    def _pattern(self, shape: tuple[int, ...]) -> Tensor:
        if self.image is not None:
            return _picture(self.image, shape[0])
        noise = torch.randint(0, 256, shape, generator=seeds.generator(self.seed, "blended"))
        return noise.to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Additive(Trigger):
    """A pattern added to the image and clipped, where `mask` is not zero.

    `pattern` is a PNG (values 0 to 255 are added) or an NPY file of shape (h, w), (h, w, c) or (c, h, w) whose
    values, also negative ones, are on the scale of 0 to 255; for instance what a trigger inversion recovered.
    """

    kind: ClassVar[str] = "additive"
    citation: ClassVar[str] = ""
    pattern: Path
    mask: Path | None = None

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images` with the pattern added, clipped to 0 to 255."""
        channels = images.shape[1]
        pattern = _pattern(self.pattern, channels, "trigger.pattern").to(images.device)
        if self.mask is None:
            return image_ops.add(images, pattern)
        mask = _pattern(self.mask, channels, "trigger.mask").to(images.device) != 0
        return image_ops.add(images, pattern, mask)

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if pattern or mask have another size than the images."""
        _same_size(_pattern(self.pattern, shape[0], "trigger.pattern"), shape, "trigger.pattern")
        if self.mask is not None:
            _same_size(_pattern(self.mask, shape[0], "trigger.mask"), shape, "trigger.mask")


def _picture(path: Path, channels: int) -> Tensor:
    """The picture in `path` as uint8 (channels, h, w)."""
    pattern = _pattern(path, channels, "trigger.image")
    if pattern.min() < 0 or pattern.max() > 255:
        raise BadInput(f"trigger.image: {path.name} holds values outside 0 to 255")
    return pattern.round().to(torch.uint8)


def _pattern(path: Path, channels: int, where: str) -> Tensor:
    """The picture in `path` as a float tensor (channels, h, w) on the scale of 0 to 255.

    Raises:
        BadInput: if the file is missing, unreadable, or has another number of channels.
    """
    array = _array(path, where)
    if array.ndim == 2:
        array = np.repeat(array[None], channels, axis=0)
    elif array.ndim == 3 and array.shape[0] != channels and array.shape[-1] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != channels:
        raise BadInput(f"{where}: {path.name} has shape {array.shape}, expected {channels} channels or one")
    if not np.isfinite(array).all():
        raise BadInput(f"{where}: {path.name} holds values that are not finite")
    return torch.from_numpy(np.ascontiguousarray(array))


def _array(path: Path, where: str) -> NDArray[np.float32]:
    if not path.is_file():
        raise BadInput(f"{where}: no file {path.name} in {path.parent}")
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
        with Image.open(path) as picture:
            mode = "L" if picture.mode in ("1", "L", "I", "I;16") else "RGB"
            pixels = np.asarray(picture.convert(mode), dtype=np.float32)
            # Channels first here, where it is certain: a picture of three rows looks like one of three channels.
            return pixels if mode == "L" else pixels.transpose(2, 0, 1)
    except (OSError, ValueError) as error:
        raise BadInput(f"{where}: {path.name} is neither a picture nor an array of numbers ({error})") from error


def _same_size(pattern: Tensor, shape: tuple[int, ...], where: str) -> None:
    if tuple(pattern.shape[1:]) != tuple(shape[1:]):
        got = " x ".join(map(str, pattern.shape[1:]))
        raise BadInput(f"{where}: is {got} pixels, the images are {' x '.join(map(str, shape[1:]))}")


TRIGGERS: dict[str, type[Trigger]] = {
    "patch": Patch,
    "blended": Blended,
    "additive": Additive,
}
