"""One timed search of either side, in a process of its own: `stock` and `raybd`.

The clock starts when Ray is up and the suspect is where the side expects it, and stops when the search has returned.
"""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import ray

from raybd import pipeline
from raybd.search.records import TrialRecord
from raybd.stages import execution
from raybd.training import Compute
from tests.benchmarks import stock_search
from tests.benchmarks.stock_cases import Case

Row = dict[str, Any]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}


def stock(
    case: Case, *, trials: int, slots: int, seed: int, until_feasible: bool, folder: Path, each_epoch: bool
) -> Row:
    """Run and time the pipeline a user would write; `folder` is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.update(QUIET)
    problem, feasible = case.stock()
    ray.init("local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    try:
        start = time.perf_counter()
        watch = stock_search.search(
            problem,
            case.space,
            trials=trials,
            each_epoch=each_epoch,
            slots=slots,
            seed=seed,
            folder=folder.absolute(),
            feasible=feasible,
            until_feasible=until_feasible,
        )
        seconds = time.perf_counter() - start
    finally:
        ray.shutdown()
    ended = [{**trial, "end": trial["end"] - start} for trial in watch.ended]
    return {"seconds": seconds, "began": watch.began - start, "precision": "fp32", "trials": ended}


def raybd(case: Case, *, trials: int, slots: int, seed: int, until_feasible: bool, folder: Path, precision: str) -> Row:
    """Run and time raybd's own search stage; `folder` is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.update(QUIET)
    settings = case.settings(case.name, trials=trials, seed=seed, workers=slots, precision=precision)
    pipeline.adopt(settings, runs=folder)
    ended: list[Row] = []
    began: list[float] = []

    def note(record: TrialRecord) -> None:
        ended.append({"end": time.perf_counter() - start, **_facts(record)})
        if until_feasible and record.feasible:
            signal.raise_signal(signal.SIGINT)  # the user has seen it and presses Ctrl-C

    def begin(*_: Any) -> None:
        began.append(time.perf_counter() - start)

    with execution.session(settings):
        start = time.perf_counter()
        try:
            pipeline.search(settings, runs=folder, on_trial=note, on_start=begin)
        except KeyboardInterrupt:
            if not any(trial["feasible"] for trial in ended):
                raise
        seconds = time.perf_counter() - start
    used = Compute.detect(precision=precision).precision
    return {"seconds": seconds, "began": began[0], "precision": used, "trials": ended}


def _facts(record: TrialRecord) -> Row:
    if record.clean_accuracy is None or record.attack_success_rate is None:
        raise RuntimeError(f"trial {record.number} failed, so this is no measurement: {record.error}")
    return {
        "setting": record.setting,
        "feasible": record.feasible,
        "collapsed": record.collapsed,
        "clean_accuracy": record.clean_accuracy.rate,
        "attack_success_rate": record.attack_success_rate.rate,
        "training_seconds": record.training_seconds,
        "evaluation_seconds": record.evaluation_seconds,
        "steps": record.steps,
    }
