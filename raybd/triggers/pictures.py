"""Pictures and patterns of the user's, out of PNG and NPY files."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raybd.registry import BadInput, is_file
from raybd.screening import open_image, screen_npy


def picture(path: Path, channels: int) -> Tensor:
    """Return the picture in `path` as uint8 (channels, h, w).

    Raises:
        BadInput: if it cannot be read, or is no picture.
    """
    pattern = pattern_of(path, channels, "trigger.image")
    if pattern.min() < 0 or pattern.max() > 255:
        raise BadInput(f"trigger.image: {path.name} holds values outside 0 to 255")
    return pattern.round().to(torch.uint8)


def pattern_of(path: Path, channels: int, where: str) -> Tensor:
    """Return the picture in `path` as a float tensor (channels, h, w) on the scale of 0 to 255.

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
    if not is_file(path):
        raise BadInput(f"{where}: no file {path.name} in {path.parent}")
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                screen_npy(file, path.stat().st_size)
                file.seek(0)
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False), dtype=np.float32)
        with open_image(path) as picture:
            mode = "L" if picture.mode in ("1", "L", "I", "I;16") else "RGB"
            pixels = np.asarray(picture.convert(mode), dtype=np.float32)
            # Channels first here, where it is certain: a picture of three rows looks like one of three channels.
            return pixels if mode == "L" else pixels.transpose(2, 0, 1)
    except Exception as error:  # whatever Pillow or NumPy say of a damaged file
        raise BadInput(f"{where}: {path.name} is neither a picture nor an array of numbers ({error})") from error


def same_size(pattern: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Raise BadInput unless `pattern` (c, h, w) has the height and width of images of `shape` (c, h, w)."""
    if tuple(pattern.shape[1:]) != tuple(shape[1:]):
        got = " x ".join(map(str, pattern.shape[1:]))
        raise BadInput(f"{where}: is {got} pixels, the images are {' x '.join(map(str, shape[1:]))}")
