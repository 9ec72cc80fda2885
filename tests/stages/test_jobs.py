"""Trainings of a stage are written down as they end, and counted while they go on."""

from collections.abc import Sequence
from pathlib import Path

import torch

from raybd.defenses import reference
from raybd.evaluation.metrics import Rate
from raybd.search.records import Job, OnJob, Outcome
from raybd.stages.jobs import run_kept
from raybd.weights import save_weights
from tests.search.fakes import measured


class Instant:
    """An executor whose trainings leave a file and the same figures."""

    workers = 1
    reference = Rate.of(1, 1)

    def map_jobs(self, jobs: Sequence[Job], *, on_job: OnJob | None = None) -> Sequence[Outcome]:
        outcomes = []
        for job in jobs:
            assert job.weights is not None
            save_weights({"w": torch.tensor([float(job.seed)])}, job.weights)
            outcomes.append(measured(0.1, 0.9))
            if on_job is not None:
                on_job(job, outcomes[-1])
        return outcomes


def test_only_what_is_left_to_do_is_run_and_counted(tmp_path: Path) -> None:
    jobs = [
        Job(defense=reference("fine_tuning"), seed=seed, weights=tmp_path / str(seed) / "weights.safetensors")
        for seed in range(3)
    ]
    told: list[tuple[int, int]] = []
    run_kept(jobs[:1], Instant(), lambda *each: told.append(each))  # type: ignore[arg-type]  # nothing else is asked
    assert told == [(0, 1), (1, 1)]
    told.clear()
    outcomes = run_kept(jobs, Instant(), lambda *each: told.append(each))  # type: ignore[arg-type]
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert outcomes == [measured(0.1, 0.9)] * 3
    told.clear()
    run_kept(jobs, Instant(), lambda *each: told.append(each))  # type: ignore[arg-type]
    assert told == []
