"""Rounds of packs: load the jobs, advance them step by step, evaluate; one runner for every way in one process."""

import itertools
import time
from collections.abc import Callable, Sequence

import torch

from raybd import seeds
from raybd.training import FINITE_CHECK_STEPS
from tests.benchmarks.device.bench import Bench, Job, Round
from tests.benchmarks.device.packs import Evaluation, Pack

WARM_UP_STEPS = 3
"""Before anything is timed or captured: libraries choose their kernels, compilers compile."""


class PackRunner:
    """Advances one pack or several until their jobs are done."""

    def __init__(self, bench: Bench, packs: Sequence[Pack], advance: Callable[[], None]) -> None:
        self._bench, self._packs, self._advance = bench, packs, advance
        self._evaluation = Evaluation(bench)
        self.size = sum(pack.size for pack in packs)
        self._load(bench.jobs(0, self.size))
        for _ in range(WARM_UP_STEPS):
            advance()
        bench.synchronize()
        for pack in packs:
            pack.finish(self._evaluation)

    def round(self, jobs: Sequence[Job], seconds: float) -> Round:
        """Run `size` jobs at once; training is cut short after so many seconds."""
        marks = [time.perf_counter()]
        self._load(jobs)
        self._bench.synchronize()
        marks.append(time.perf_counter())
        with seeds.IsolatedRandom(seeds.derive(jobs[0].seed, "layers")):
            steps, ended = self._train(marks[-1] + seconds)
        marks.append(time.perf_counter())
        finished = tuple(one for pack in self._packs for one in pack.finish(self._evaluation))
        marks.append(time.perf_counter())
        start, training, evaluation = (after - before for before, after in itertools.pairwise(marks))
        return Round(
            start_seconds=start,
            training_seconds=training,
            steps=steps,
            evaluation_seconds=evaluation,
            finished=finished if ended else (),
        )

    def close(self) -> None:
        """Let go of the packs and of what was captured or compiled for them."""
        self._packs, self._advance = (), lambda: None

    def _load(self, jobs: Sequence[Job]) -> None:
        first = 0
        for pack in self._packs:
            pack.load(jobs[first : first + pack.size])
            first += pack.size

    def _train(self, until: float) -> tuple[int, bool]:
        """Return the steps taken, and whether the training came to its end: whole, or with no finite loss left."""
        for step in range(self._bench.steps):
            self._advance()
            if (step + 1) % FINITE_CHECK_STEPS == 0:
                self._bench.synchronize()
                if not any(pack.alive(step) for pack in self._packs):
                    return step + 1, True
                if time.perf_counter() > until and step + 1 < self._bench.steps:
                    return step + 1, False
        self._bench.synchronize()
        return self._bench.steps, True


def capture(pack: Pack) -> torch.cuda.CUDAGraph:
    """Return a graph of the pack's whole step, warmed up on a stream of its own as capturing demands."""
    pack.load(pack.bench.jobs(0, pack.size))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            pack.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pack.step()
    return graph
