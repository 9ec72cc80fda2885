"""One process for many settings, one after the other: raybd's own loop on resident data, as `search/local` runs it."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from raybd.evaluation.metrics import read
from raybd.training import finished
from tests.benchmarks.device.bench import Bench, Finished, Job, Round, finite


class Plain:
    """Sanitizes and measures one setting at a time."""

    size = 1

    def __init__(self, bench: Bench, size: int = 1) -> None:
        assert size == 1
        self._bench = bench
        warm_up = replace(bench.common, epochs=1)
        trained(bench, Job(index=0, defense=warm_up, seed=0))

    def round(self, jobs: Sequence[Job], seconds: float) -> Round:
        """Run one job to its end, however long it takes."""
        return trained(self._bench, jobs[0])

    def close(self) -> None:
        """Nothing was started."""


def trained(bench: Bench, job: Job) -> Round:
    """Return how `job` went: `raybd.search.trial.steps`, with the model at hand."""
    marks = [time.perf_counter()]
    view, compute = bench.view, bench.view.compute
    defender = view.defender()
    compute.place(defender.model)
    bench.synchronize()
    marks.append(time.perf_counter())
    last = finished(job.defense.sanitize(defender, compute=compute, seed=job.seed, subset_seed=view.seed))
    bench.synchronize()
    marks.append(time.perf_counter())
    readings = read(defender.model, view.selection, view.trigger, compute)
    marks.append(time.perf_counter())
    moved = [
        (after - before.to(after)).square().sum()
        for after, before in zip(defender.model.parameters(), view.defender().model.parameters(), strict=True)
    ]
    start, training, evaluation = (after - before for before, after in itertools.pairwise(marks))
    one = Finished(
        index=job.index,
        clean_accuracy=readings.clean_accuracy.rate,
        attack_success_rate=readings.attack_success_rate.rate,
        loss=finite(last.loss),
        distance=finite(torch.stack(moved).sum().sqrt().item()),
    )
    return Round(
        start_seconds=start,
        training_seconds=training,
        steps=last.steps,
        evaluation_seconds=evaluation,
        finished=(one,),
    )
