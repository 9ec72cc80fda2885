"""WaNet: a smooth warping of some training images, relabelled (Nguyen & Tran 2021, arXiv 2102.10369)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import UInt8
from torch import Tensor

from raybd import seeds
from raybd.attacks.poisoning import DataPoisoning
from raybd.triggers import Warp


@dataclass(frozen=True, kw_only=True)
class WaNet(DataPoisoning):
    """A smooth warping drawn from `warp_seed`, dirty label; images warped otherwise keep their label.

    These noise images, `cover_ratio` for each poisoned one, carry the warp plus noise of up to half a pixel, so that
    the model learns this warp and not any. Defaults are BackdoorBench's. The original warps anew in every batch of
    its training; ours poisons once, before it, and so needs no training of its own.
    """

    kind: ClassVar[str] = "wanet"
    citation: ClassVar[str] = "wanet"
    cover_ratio: float = 2.0
    k: int = 4
    s: float = 0.5
    grid_rescale: float = 1.0
    warp_seed: int = 0

    def trigger(self) -> Warp:
        """Return the warping."""
        return Warp(**self.aim, k=self.k, s=self.s, grid_rescale=self.grid_rescale, seed=self.warp_seed)

    @property
    def ratio_of_covers(self) -> float:
        """See `DataPoisoning.ratio_of_covers`."""
        return self.poison_ratio * self.cover_ratio

    def disguise(self, images: UInt8[Tensor, "k c h w"], seed: int) -> UInt8[Tensor, "k c h w"]:
        """Return `images` under the warp with noise."""
        return self.trigger().apply_noisily(images, seeds.generator(seed, "noise"))
