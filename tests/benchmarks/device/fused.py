"""Several settings fused by `torch.func.vmap` over stacked weights: one step for all of them."""

from tests.benchmarks.device.bench import Bench
from tests.benchmarks.device.packs import Fused
from tests.benchmarks.device.rounds import PackRunner


def fused(bench: Bench, size: int) -> PackRunner:
    """Open: `size` settings, images contiguous."""
    pack = Fused(bench, size)
    return PackRunner(bench, [pack], pack.step)


def fused_channels_last(bench: Bench, size: int) -> PackRunner:
    """Open: `size` settings, channels last over all of them."""
    pack = Fused(bench, size, packed_last=True)
    return PackRunner(bench, [pack], pack.step)
