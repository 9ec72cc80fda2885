"""Where the time of a search goes: training, evaluation, and all that is neither, on the workers' path.

    python -m tests.benchmarks.where_time_goes demo --trials 48
    python -m tests.benchmarks.where_time_goes third_party --data DATA_FOLDER --trials 48 --precision bf16

Worker time is workers x seconds of the search, from the first setting asked for to the last outcome told; what is in it
and is neither training nor evaluation is Ray, Optuna, MLflow, the journal, weights and waiting. Of that, two parts do
not grow with the trials and are given apart: each worker's start (a Python process that imports torch and Ray) before
its first trial, and the tail, in which the last trials leave workers idle. Both count as overhead in the shares.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from raybd import pipeline
from raybd.artifacts import Study
from raybd.registry import write_json
from raybd.search.records import TrialRecord
from raybd.settings import StudySettings, load_study, parse_study
from raybd.stages import execution
from raybd.stages.run_folder import environment
from tests.benchmarks import third_party

RESULTS = Path(__file__).parent / "results"


def shares(study: Study, ends: list[float], starts: list[float], seconds: float) -> dict[str, Any]:
    """Return what a search spent, in seconds of worker time and as shares of it.

    Args:
        study: the search.
        ends: when each trial ended, in seconds from the start.
        starts: when each worker's first trial began to train, in seconds from the start.
        seconds: of the search as a whole.
    """
    worker = study.workers * seconds
    training = sum(record["training_seconds"] for record in study.records)
    evaluation = sum(record["evaluation_seconds"] for record in study.records)
    last = sorted(ends)[-study.workers :]
    tail = sum(seconds - end for end in last)
    overhead = worker - training - evaluation
    return {
        "trials": len(study.records),
        "workers": study.workers,
        "seconds": seconds,
        "training_share": training / worker,
        "evaluation_share": evaluation / worker,
        "overhead_share": overhead / worker,
        "tail_share": tail / worker,
        "start_share": sum(starts) / worker,
        "start_seconds": statistics.median(starts),
        "overhead_seconds_per_trial": (overhead - tail - sum(starts)) / len(study.records),
        "images_per_second_of_training": sum(record["images"] for record in study.records) / training,
    }


def measure(settings: StudySettings, runs: Path) -> dict[str, Any]:
    """Run a search with Ray already up and say where its time went."""
    suspect = (pipeline.inject if settings.injects else pipeline.adopt)(settings, runs=runs)
    ends: list[float] = []
    starts: dict[str, float] = {}
    begun: list[float] = []

    def note(record: TrialRecord) -> None:
        ends.append(time.monotonic() - begun[0])
        starts.setdefault(record.worker, ends[-1] - record.training_seconds - record.evaluation_seconds)

    with execution.session(settings):
        study = pipeline.search(settings, runs=runs, on_trial=note, on_start=lambda *_: begun.append(time.monotonic()))
    spent = shares(study, ends, list(starts.values()), max(ends))
    return {"precision": suspect.bench.compute.precision, **spent}


def main() -> None:
    """Measure one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspect", choices=["demo", "third_party"])
    parser.add_argument("--data", type=Path, help="the folder with the third party's model")
    parser.add_argument("--runs", type=Path, required=True, help="a new folder")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    if options.suspect == "demo":
        demo = load_study("demo")
        changes = {"search": {**demo.resolved()["search"], "trials": options.trials}}
        settings = parse_study({**demo.resolved(), **changes}, folder=demo.folder)
    else:
        changes = {"trials": options.trials, "precision": options.precision}
        settings = load_study(third_party.write_study(options.runs / "study", data=options.data, seed=0, **changes))
    found = {"suspect": options.suspect, "environment": environment(), **measure(settings, options.runs)}
    write_json(RESULTS / f"where_time_goes_{options.suspect}.json", found)
    sys.stdout.write("\n".join(f"{key}: {value}" for key, value in found.items()) + "\n")


if __name__ == "__main__":
    main()
