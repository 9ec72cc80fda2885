"""A smooth warping of the image (Nguyen & Tran 2021, arXiv 2102.10369)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

from raybd import images as image_ops
from raybd import seeds
from raybd.registry import BadInput
from raybd.triggers.base import Trigger


@dataclass(frozen=True, kw_only=True)
class Warp(Trigger):
    """A smooth warping of the image (WaNet, arXiv 2102.10369), drawn from `seed`.

    `k` x `k` random shifts, their mean absolute value scaled to one, are spread bicubically over the image; there a
    shift of one moves what is seen by `s` / 2 pixels. The grid is stretched by `grid_rescale` and clamped to the
    image. Images are rounded to whole pixel values afterwards, as they would be when stored.
    """

    kind: ClassVar[str] = "warp"
    citation: ClassVar[str] = "wanet"
    k: int = 4
    s: float = 0.5
    grid_rescale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 2:
            raise BadInput(f"k: expected at least 2 shifts per axis, got {self.k}")
        for name in ("s", "grid_rescale"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name}: expected above 0, got {getattr(self, name)}")

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return warped copies of `images`."""
        return image_ops.warp(images, self.grid(*images.shape[-2:]))

    def apply_noisily(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        """Return `images` warped by this field plus noise of up to half a pixel, drawn for each image anew."""
        height, width = images.shape[-2:]
        pixel = torch.tensor([1 / width, 1 / height])
        parts = []
        for part in torch.split(images, 1000):  # bounds the noise, eight bytes a pixel
            noise = torch.rand(len(part), height, width, 2, generator=generator) * 2 - 1
            parts.append(image_ops.warp(part, (self.grid(height, width) + noise * pixel).clamp(-1, 1)))
        return torch.cat(parts)

    def fit_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the images have fewer pixels than the field has shifts."""
        if min(shape[1:]) < self.k:
            raise BadInput(f"trigger.k: {self.k} shifts per axis do not fit images of {shape[1]} x {shape[2]} pixels")

    def probes(self, shape: tuple[int, int, int]) -> UInt8[Tensor, "n c h w"]:
        """See `Trigger.probes`; plain images look the same when warped, noise does not."""
        noise = torch.randint(0, 256, (1, *shape), generator=seeds.generator(0, "probes"))
        return torch.cat([super().probes(shape), noise.to(torch.uint8)])

    def grid(self, height: int, width: int) -> Float32[Tensor, "1 h w 2"]:
        """Return where each pixel (x, y) of the warped image comes from, -1 to 1 across the image."""
        shifts = torch.rand(1, 2, self.k, self.k, generator=seeds.generator(self.seed, "warp")) * 2 - 1
        shifts = shifts / shifts.abs().mean()
        field = functional.interpolate(shifts, (height, width), mode="bicubic", align_corners=True)
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        moved = torch.stack([x, y], -1) + field.permute(0, 2, 3, 1) * (self.s / torch.tensor([width, height]))
        return (moved * self.grid_rescale).clamp(-1, 1)
