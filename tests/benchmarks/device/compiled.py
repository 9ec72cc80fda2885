"""`torch.compile`, once for all settings: the rate is a tensor, so that no value of it compiles anew."""

import functools

import torch

from tests.benchmarks.device.bench import Bench
from tests.benchmarks.device.packs import Fused, Single
from tests.benchmarks.device.rounds import PackRunner, capture

_compile = functools.partial(torch.compile, dynamic=False)


def compiled(bench: Bench, size: int) -> PackRunner:
    """Open: one setting at a time; batch, loss with its gradient, and update are compiled."""
    pack = Single(bench, size, _compile)
    return PackRunner(bench, [pack], pack.step)


def compiled_graphs(bench: Bench, size: int) -> PackRunner:
    """Open: the compiled step of one setting, captured as a graph."""
    pack = Single(bench, size, _compile)
    return PackRunner(bench, [pack], capture(pack).replay)


def fused_compiled(bench: Bench, size: int) -> PackRunner:
    """Open: `size` settings fused, the fused step compiled."""
    pack = Fused(bench, size, _compile)
    return PackRunner(bench, [pack], pack.step)
