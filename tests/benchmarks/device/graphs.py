"""CUDA graphs: the whole step, data and optimiser included, captured once and replayed."""

from tests.benchmarks.device.bench import Bench
from tests.benchmarks.device.packs import Fused, Single
from tests.benchmarks.device.rounds import PackRunner, capture


def graphs(bench: Bench, size: int) -> PackRunner:
    """Open: one setting at a time, its step one graph."""
    pack = Single(bench, size)
    return PackRunner(bench, [pack], capture(pack).replay)


def fused_graphs(bench: Bench, size: int) -> PackRunner:
    """Open: `size` settings fused, their step one graph."""
    pack = Fused(bench, size)
    return PackRunner(bench, [pack], capture(pack).replay)
