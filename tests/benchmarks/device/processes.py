"""Processes on one device: a fresh one for every setting, or some that stay and take one setting after another."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.device.bench import Bench, Finished, Job, Round

REPOSITORY = Path(__file__).parents[3]


class Processes:
    """`size` processes at once; `stay` tells whether they outlive a job, as a reused Ray actor does."""

    def __init__(self, bench: Bench, size: int, *, stay: bool) -> None:
        self.size, self._stay = size, stay
        self._clean_up = contextlib.ExitStack()
        folder = Path(self._clean_up.enter_context(tempfile.TemporaryDirectory(prefix="fill_device")))
        self._file = folder / "bench.pickle"
        bench.save(self._file)
        self._workers: list[subprocess.Popen[str]] = []
        if stay:
            self._workers = [self._start() for _ in range(size)]
            self._run(bench.jobs(0, size))

    def round(self, jobs: Sequence[Job], seconds: float) -> Round:
        """Run one job in each process, to its end; what is neither training nor evaluation is start."""
        start = time.perf_counter()
        rounds = self._run(jobs)
        wall = time.perf_counter() - start
        training = max(one.training_seconds for one in rounds)
        evaluation = max(one.evaluation_seconds for one in rounds)
        return Round(
            start_seconds=max(0.0, wall - training - evaluation),
            training_seconds=training,
            steps=max(one.steps for one in rounds),
            evaluation_seconds=evaluation,
            finished=tuple(one for r in rounds for one in r.finished),
        )

    def close(self) -> None:
        """End the processes that stayed."""
        for worker in self._workers:
            _end(worker)
        self._workers = []
        self._clean_up.close()

    def _run(self, jobs: Sequence[Job]) -> list[Round]:
        workers = self._workers if self._stay else [self._start() for _ in jobs]
        try:
            for worker, job in zip(workers, jobs, strict=True):
                assert worker.stdin is not None
                worker.stdin.write(f"{job.index}\n")
                worker.stdin.flush()
            return [_answer(worker) for worker in workers]
        finally:
            if not self._stay:
                for worker in workers:
                    _end(worker)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.benchmarks.device.worker", str(self._file)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY
        )


def processes(bench: Bench, size: int) -> Processes:
    """Open: a fresh process for every setting, `size` at once."""
    return Processes(bench, size, stay=False)


def workers(bench: Bench, size: int) -> Processes:
    """Open: `size` processes that stay."""
    return Processes(bench, size, stay=True)


def _answer(worker: "subprocess.Popen[str]") -> Round:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker process ended with status {worker.wait()} before its job did")
    told = json.loads(line)
    return Round(**{**told, "finished": tuple(Finished(**one) for one in told["finished"])})


def _end(worker: "subprocess.Popen[str]") -> None:
    """Close the worker's input, on which it ends by itself; kill it, and only it, if it does not."""
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
        worker.communicate(timeout=60)
    if worker.poll() is None:
        worker.kill()
        worker.wait()
