"""Ten thousand sleeping trials on 64 slots: what the driver of a long search costs in time and in memory.

    python -m tests.load.trials --trials 10000 --slots 64 --seconds 5

Everything is the product's own but the worker: the study and its journal, the searcher, the Tuner in segments.
It starts a Ray of its own on loopback, with so many CPUs that are not there.
"""

import argparse
import gc
import json
import logging
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from raybd.evaluation.metrics import Difference, Rate
from raybd.registry import as_json
from raybd.search import tuner
from raybd.search.records import Outcome, TrialRecord
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.space import Space
from raybd.search.tuner.trials import OUTCOME
from raybd.search.tuner.tuners import segments
from tests.load.sleeper import Sleeper

RESULTS = Path(__file__).parent / "results" / "trials.json"
ANYWHERE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray reads it when it is imported: with 0 it listens on loopback, however the machine is called."""
OBJECT_STORE_BYTES = 200_000_000


def resident_mb() -> float:
    """Memory of this process that is in RAM, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


@dataclass(kw_only=True)
class Watch:
    """Takes note of what the driver has used whenever a segment's last trial has ended."""

    segment: int
    seconds: float
    start: float
    ended: int = 0
    workers: set[str] = field(default_factory=set)
    starting: float = 0.0
    left: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    mark: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self.mark = (time.monotonic() - self.start, time.process_time())

    def __call__(self, record: TrialRecord) -> None:
        """Count an ended trial; the first of the last worker tells how long the workers took to start."""
        self.ended += 1
        if record.worker not in self.workers:
            self.workers.add(record.worker)
            self.starting = time.monotonic() - self.start - self.seconds - self.mark[0]
        if self.ended % self.segment == 0:
            self.note()

    def note(self) -> None:
        """End a segment: its memory is at its largest now, for Tune has not yet forgotten the trials."""
        now, cpu = time.monotonic() - self.start, time.process_time()
        trials = self.ended - sum(row["trials"] for row in self.rows)
        self.rows.append(
            {
                "trials": trials,
                "end_seconds": round(now, 1),
                "seconds": round(now - self.mark[0], 1),
                "workers_started_seconds": round(self.starting, 1),
                "workers": len(self.workers),
                "driver_cpu_ms_per_trial": round(1000 * (cpu - self.mark[1]) / trials, 1),
                "driver_rss_mb": round(resident_mb(), 1),
            }
        )
        self.mark = (now, cpu)
        self.workers, self.starting = set(), 0.0


def typical() -> dict[str, Any]:
    """A complete trial's outcome, as plain JSON: as large in the journal as a real one's."""
    rate = Rate.of(250, 500)
    drop = Difference(value=0.01, low=0.0, high=0.02, n=500)
    told = Outcome(
        state="complete", clean_accuracy=rate, attack_success_rate=rate, robust_accuracy=rate, accuracy_drop=drop,
        training_seconds=4.0, evaluation_seconds=1.0, steps=100, images=12800,
    )  # fmt: skip
    plain: dict[str, Any] = as_json(told)
    return plain


def opened(folder: Path, trials: int) -> OptunaDecider:
    """The decider of the study in `folder` over the shipped space, asked at random."""
    return OptunaDecider.open(
        folder,
        name="load",
        space=Space.load("standalone", Path.cwd()),
        limits=Limits(max_attack_success_rate=0.05, max_accuracy_drop=0.02),
        suspect_digest="none",
        trials=trials,
        sampler="random",
    )


def searched(folder: Path, given: argparse.Namespace, watch: Watch) -> None:
    """Run the search on the Ray that was started."""
    trainable = tune.with_resources(
        tune.with_parameters(Sleeper, key=OUTCOME, outcome=typical(), seconds=given.seconds), {"cpu": 1}
    )
    with tuner.connected(workers=given.slots) as workers, opened(folder, given.trials) as decider:
        segments(
            trainable,
            decider,
            trials=folder / "trials",
            slots=workers.now,
            segment=given.segment,
            on_trial=watch,
        )
        watch.left = sum(type(thing) is Trial for thing in gc.get_objects())
    if watch.ended % given.segment:
        watch.note()


def proof(folder: Path, trials: int) -> dict[str, Any]:
    """What the journal says, read anew: how the trials ended, and whether each setting did so once."""
    with opened(folder, trials) as decider:
        records = decider.records()
    return {
        "states": dict(Counter(record.state for record in records)),
        "different_numbers": len({record.number for record in records}),
        "different_seeds": len({record.seed for record in records if record.state == "complete"}),
        "actors": len({record.worker for record in records}),
        "trials_in_actors_with_torch": sum(bool(record.reason) for record in records),
    }


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Start Ray, search, and return what it cost."""
    ideal = given.trials * given.seconds / given.slots
    temporary = Path(tempfile.mkdtemp(prefix="load-"))
    start = time.monotonic()
    try:
        ray.init(
            num_cpus=given.slots, num_gpus=0, include_dashboard=False, log_to_driver=False,
            logging_level=logging.ERROR, object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(temporary / "ray"),
        )  # fmt: skip
        begun = time.monotonic() - start
        watch = Watch(segment=given.segment, seconds=given.seconds, start=start)
        searched(temporary / "search", given, watch)
        total = time.monotonic() - start
        ray.shutdown()
        journal = (temporary / "search" / "journal.log").stat().st_size
        shown = proof(temporary / "search", given.trials)
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)
    rows = watch.rows
    return {
        "ideal_seconds": round(ideal, 1),
        "total_seconds": round(total, 1),
        "ratio_to_ideal": round(total / ideal, 3),
        "ray_started_seconds": round(begun, 1),
        "workers_started_seconds": round(sum(row["workers_started_seconds"] for row in rows), 1),
        "driver_rss_last_to_first": round(rows[-1]["driver_rss_mb"] / rows[0]["driver_rss_mb"], 3),
        "tune_trials_left_in_driver": watch.left,
        "journal_mb": round(journal / 1e6, 1),
        "proof": shown,
        "segments": rows,
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":")[1].strip() for line in described.splitlines() if line.startswith("model name")), "")
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return {
        "cpu": model,
        "cores": cores,
        "load_average_after": round(load, 1),
        "python": platform.python_version(),
        "ray": ray.__version__,
    }


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--segment", type=int, help="trials per Tuner; the product's own rule by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.segment = given.segment or tuner.segment_for(given.slots)
    if os.environ.get(ANYWHERE) != "0":
        os.environ[ANYWHERE] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.load.trials", *sys.argv[1:]])
    figures = measured(given)
    command = (
        f"python -m tests.load.trials --trials {given.trials} --slots {given.slots} --seconds {given.seconds:g} "
        f"--segment {given.segment}"
    )
    text = json.dumps({"command": command, "machine": machine(), **figures}, indent=2)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
