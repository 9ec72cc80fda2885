"""A trigger made anew for each image by two trained generators (Nguyen & Tran 2020, arXiv 2010.08138)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from raybd.registry import BadInput
from raybd.triggers.generators import Generators, show
from raybd.triggers.learned import Learned

CHUNK = 100
"""At most so many images go through the generators at once."""
CHUNK_VALUES = 400_000
"""At most so many input values do, about 130 images of 3 x 32 x 32, unless one image has more."""


@dataclass(frozen=True, kw_only=True)
class InputAware(Learned):
    """A pattern and a mask for each image, drawn by the generators in `weights` (arXiv 2010.08138)."""

    kind: ClassVar[str] = "input_aware"
    citation: ClassVar[str] = "input_aware"

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return `images`, each with its own trigger; computed in float32 where `images` lie."""
        generators = self.generators().to(images.device)
        with torch.inference_mode():
            chunks = [_triggered(generators, part) for part in torch.split(images, _chunk(images))]
        return torch.cat(chunks).clone()

    def fit_tensors_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the generators are for images with another number of channels."""
        channels = _sizes(self.tensors)[0]
        if channels != shape[0]:
            raise BadInput(
                f"trigger.weights: the generators are for images of {channels} channel(s), these have {shape[0]}"
            )

    @classmethod
    def expected(cls) -> Mapping[str, int]:
        """See `Learned.expected`."""
        return {name: tensor.ndim for name, tensor in _blank(1, 1).state_dict().items()}

    def check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learned.check_tensors`: they must be those of two generators for the same images."""
        fresh = _blank(*_sizes(tensors)).state_dict()
        for name, tensor in tensors.items():
            if (tensor.shape, tensor.dtype) != (fresh[name].shape, fresh[name].dtype):
                raise BadInput(
                    f"trigger.weights: expected {name} as {fresh[name].dtype} of shape {tuple(fresh[name].shape)}, "
                    f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
                )

    def generators(self) -> Generators:
        """Return the two networks, in evaluation mode, on the CPU."""
        generators = _blank(*_sizes(self.tensors))
        generators.load_state_dict(dict(self.tensors), assign=True)
        return generators.eval()


def _triggered(generators: Generators, images: Tensor) -> Tensor:
    """Run one chunk, filled up to its full size: kernels differ by batch size, and with them the last bits."""
    x = images.float().div_(255).contiguous()
    filled = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, _chunk(images) - len(images)))
    done = show(filled, generators.patterns(filled), generators.masks(filled))[: len(images)]
    return done.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _chunk(images: Tensor) -> int:
    """How many images of this shape go through the generators at once."""
    return max(1, min(CHUNK, CHUNK_VALUES // images.shape[1:].numel()))


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """The images' channels and the generators' width."""
    width, channels = tensors["pattern.enter.0.weight"].shape[:2]
    return channels, width


def _blank(channels: int, width: int) -> Generators:
    """Generators without values, which draw nothing from any random stream."""
    with torch.device("meta"):
        return Generators(channels, width)
