"""The networks of the input-aware trigger: one draws a pattern for each image, one says where it shows."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

STEEPNESS = 10
"""How sharply the mask tells inside from outside; at 10 a pixel is at most 99.995 % either, and can still change."""


class Generator(nn.Module):
    """A fully convolutional encoder and decoder: images (n, c, h, w) of any size to maps (n, out, h, w) in [-1, 1].

    Normalised image by image (one group), so that an image's map never depends on the rest of its batch.
    """

    def __init__(self, channels: int, width: int, out: int) -> None:
        super().__init__()
        self.enter = _block(channels, width)
        self.down = _block(width, 2 * width, stride=2)
        self.bottom = _block(2 * width, 2 * width, stride=2)
        self.up = _block(2 * width, 2 * width)
        self.leave = _block(2 * width, width)
        self.last = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n out h w"]:
        """Return a map for each image."""
        full = self.enter(x)
        half = self.down(full)
        # Nearest, because the gradient of smoother scalings does not repeat itself to the bit on a GPU.
        wide = self.up(functional.interpolate(self.bottom(half), size=half.shape[-2:], mode="nearest"))
        done = self.last(self.leave(functional.interpolate(wide, size=full.shape[-2:], mode="nearest")))
        return torch.tanh(done)


class Generators(nn.Module):
    """The pattern's and the mask's generator; their `state_dict` has the prefixes `pattern.` and `mask.`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.pattern = Generator(channels, width, channels)
        self.mask = Generator(channels, width, 1)

    def patterns(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return a pattern in [0, 1] for each image in [0, 1]."""
        drawn: Tensor = self.pattern(x)
        return 0.5 + 0.5 * drawn

    def masks(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        """Return a mask in [0, 1], nearly all 0 or 1, for each image in [0, 1]."""
        return torch.sigmoid(STEEPNESS * self.mask(x))


def show(
    images: Float[Tensor, "n c h w"], patterns: Float[Tensor, "n c h w"], masks: Float[Tensor, "n 1 h w"]
) -> Float[Tensor, "n c h w"]:
    """Return `images` with their patterns where their masks are."""
    return images + masks * (patterns - images)


def _block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(1, out), nn.ReLU())
