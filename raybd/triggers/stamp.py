"""A learnt patch (Liu et al. 2018, Trojaning Attack on Neural Networks, doi 10.14722/ndss.2018.23291)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from raybd import images as image_ops
from raybd.registry import BadInput
from raybd.triggers.learned import Learned
from raybd.triggers.patch import check_inside, start


@dataclass(frozen=True, kw_only=True)
class Stamp(Learned):
    """A patch whose pixels were learnt: `pattern` in `weights`, uint8 (c, p, q).

    `row` and `column` place it as they place a `Patch`.
    """

    kind: ClassVar[str] = "stamp"
    citation: ClassVar[str] = "trojan"
    row: int = -1
    column: int = -1

    def apply(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Return copies of `images` with the patch pasted in."""
        pattern = self.tensors["pattern"]
        row = start(self.row, pattern.shape[1], images.shape[2])
        return image_ops.paste(images, pattern, row, start(self.column, pattern.shape[2], images.shape[3]))

    def fit_tensors_to(self, shape: tuple[int, int, int]) -> None:
        """Raise BadInput if the patch has other channels than the images, or sticks out of them."""
        pattern = self.tensors["pattern"]
        if pattern.shape[0] != shape[0]:
            raise BadInput(f"trigger.weights: the patch has {pattern.shape[0]} channel(s), the images {shape[0]}")
        check_inside(pattern, self.row, self.column, shape)

    @classmethod
    def expected(cls) -> Mapping[str, int]:
        """See `Learned.expected`."""
        return {"pattern": 3}

    def check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learned.check_tensors`: pixels are bytes."""
        if tensors["pattern"].dtype != torch.uint8:
            raise BadInput(f"trigger.weights: expected pattern as torch.uint8, got {tensors['pattern'].dtype}")
