"""Pure image arithmetic on uint8 tensors (n, c, h, w), for triggers, augmentation and loading."""

import torch
from jaxtyping import Bool, Float32, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from raybd.registry import BadInput


def paste(
    images: UInt8[Tensor, "n c h w"], patch: UInt8[Tensor, "c p q"], row: int, column: int
) -> UInt8[Tensor, "n c h w"]:
    """Return copies of `images` with `patch` put over them, its upper left pixel at (`row`, `column`).

    Raises:
        BadInput: if the patch does not lie inside the image.
    """
    height, width = patch.shape[-2:]
    if not (0 <= row <= images.shape[-2] - height and 0 <= column <= images.shape[-1] - width):
        raise BadInput(
            f"patch: {height}x{width} at row {row}, column {column} does not lie inside an image of "
            f"{images.shape[-2]}x{images.shape[-1]}"
        )
    out = images.clone()
    out[:, :, row : row + height, column : column + width] = patch.to(images.device)
    return out


def blend(images: UInt8[Tensor, "n c h w"], pattern: UInt8[Tensor, "c h w"], alpha: float) -> UInt8[Tensor, "n c h w"]:
    """Return (1 - `alpha`) of each image plus `alpha` of `pattern`, rounded.

    Raises:
        BadInput: if `alpha` lies outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha: expected a number in [0, 1], got {alpha}")
    return _as_bytes((1 - alpha) * images.float() + alpha * pattern.to(images.device).float())


def add(
    images: UInt8[Tensor, "n c h w"],
    pattern: Shaped[Tensor, "c h w"],
    mask: Shaped[Tensor, "#c h w"] | None = None,
) -> UInt8[Tensor, "n c h w"]:
    """Return `images` plus `pattern` (pixel values, may be negative), clipped to 0..255 and rounded.

    `mask`, boolean or a share in [0, 1], weighs the pattern pixel by pixel.
    """
    change = pattern.float() if mask is None else pattern.float() * mask.float()
    return _as_bytes(images.float() + change.to(images.device))


def flip(images: UInt8[Tensor, "n c h w"], which: Bool[Tensor, "n"]) -> UInt8[Tensor, "n c h w"]:
    """Return `images` with those marked in `which` mirrored left to right."""
    which = which.to(images.device, non_blocking=True)  # else a GPU's host would wait for the steps before
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def pad_and_crop(
    images: UInt8[Tensor, "n c h w"], padding: int, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Return each image shifted by up to `padding` pixels each way, at random; what moves in is black.

    The same as zero padding on all four sides and a random crop back to the old size, one draw per image.
    The draws come from `generator`'s device, so a CPU generator gives the same shifts for images on a GPU.
    """
    count, channels, height, width = images.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=generator.device)
    down, right = shifts.to(images.device, non_blocking=True)  # else a GPU's host would wait for the steps before
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    padded = functional.pad(images, (padding,) * 4)
    # One gather over flattened pixels: the index is shared by the channels, so it is expanded, not copied.
    index = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).reshape(count, 1, height * width)
    return padded.flatten(2).gather(2, index.expand(-1, channels, -1)).reshape(images.shape)


def warp(images: UInt8[Tensor, "n c h w"], grid: Float32[Tensor, "m h w 2"]) -> UInt8[Tensor, "n c h w"]:
    """Return `images` with each pixel taken from where `grid` says, interpolated and rounded.

    Places are (x, y), -1 the middle of the first pixel and 1 that of the last; one `grid` for all images, or one each.
    """
    grid = grid.to(images.device).expand(len(images), -1, -1, -1)
    parts = zip(torch.split(images, 1000), torch.split(grid, 1000), strict=True)  # bounds the float copy
    chunks = [_as_bytes(functional.grid_sample(part.float(), at, align_corners=True)) for part, at in parts]
    return torch.cat(chunks)


def resize(images: UInt8[Tensor, "n c h w"], size: int) -> UInt8[Tensor, "n c size size"]:
    """Return `images` scaled to `size` x `size` pixels (bilinear, antialiased); proportions are not kept."""
    if images.shape[-2:] == (size, size):
        return images
    chunks = [
        _as_bytes(functional.interpolate(part.float(), (size, size), mode="bilinear", antialias=True))
        for part in torch.split(images, 1000)  # bounds the float copy, four times as large as the images
    ]
    return torch.cat(chunks)


def _as_bytes(values: Float32[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    return values.round_().clamp_(0, 255).to(torch.uint8)
