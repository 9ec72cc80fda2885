"""Several CUDA streams in one process, one setting on each, so that their kernels may overlap."""

from collections.abc import Callable, Sequence

import torch

from tests.benchmarks.device.bench import Bench
from tests.benchmarks.device.packs import Single
from tests.benchmarks.device.rounds import PackRunner, capture


def streams(bench: Bench, size: int) -> PackRunner:
    """Open: `size` settings, their steps launched in turn; one thread launches for all of them."""
    packs = [Single(bench) for _ in range(size)]
    return PackRunner(bench, packs, _in_turn([pack.step for pack in packs]))


def stream_graphs(bench: Bench, size: int) -> PackRunner:
    """Open: `size` settings, each with a graph of its own, so that launching no longer holds them up."""
    packs = [Single(bench) for _ in range(size)]
    return PackRunner(bench, packs, _in_turn([capture(pack).replay for pack in packs]))


def _in_turn(steps: Sequence[Callable[[], None]]) -> Callable[[], None]:
    lanes = [torch.cuda.Stream() for _ in steps]
    torch.cuda.synchronize()  # what the packs were made with must be there before another stream reads it

    def advance() -> None:
        for lane, step in zip(lanes, steps, strict=True):
            with torch.cuda.stream(lane):
                step()

    return advance
