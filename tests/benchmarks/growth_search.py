"""What a search costs against its trials and its workers, on trials that do next to nothing, or that sleep."""

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from raybd import pipeline
from raybd.data import Augment
from raybd.models import Architecture
from raybd.search import tuner
from raybd.search.records import OBJECTIVES, Objective, TrialRecord
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.space import Space
from raybd.search.tuner import SEGMENT, Workers
from raybd.search.view import SearchView
from raybd.training import Compute
from raybd.triggers import Patch
from raybd.weights import state_of
from tests.benchmarks.growth_fits import growth, memory_ratio
from tests.benchmarks.growth_sizes import Sizes
from tests.digits import TINY, stripes
from tests.studies import study

WORKER_BYTES = 500e6
"""Memory that one worker process takes with torch and Ray imported, rounded up; 64 of 460 MB did not fit into 23 GB."""
RATES = {
    "lr_base": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "lr_max1": {"type": "float", "low": 0.01, "high": 0.1, "log": True},
    "lr_max2": {"type": "float", "low": 1e-3, "high": 0.05, "log": True},
    "phase1_share": {"type": "float", "low": 0.2, "high": 0.6},
}


BRIEF = {
    "defense": "super_fine_tuning",
    "fixed": {"batch_size": 32, "ramp_up_steps": 1, "ramp_down_steps": 1, "phase1_share": 0.5, "clean_fraction": 0.2},
    "search": {
        "lr_base": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "lr_max1": {"type": "float", "low": 0.01, "high": 0.5, "log": True},
        "lr_max2": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
        "epochs": {"type": "int", "low": 1, "high": 2},
    },
    "first": [],
}
TWO_WORKERS = {"executor": "ray", "workers": 2}


def space(epochs: int) -> Space:
    """Return five dimensions whose settings all train for about so many epochs."""
    span = {"type": "int", "low": epochs, "high": epochs + 1}
    fixed = {"batch_size": 48, "ramp_up_steps": 1, "ramp_down_steps": 1}
    mapping = {"defense": "super_fine_tuning", "fixed": fixed, "search": {**RATES, "epochs": span}}
    return Space.parse(mapping, where="growth")


def view(architecture: Architecture, images: int) -> SearchView:
    """Return an untrained network and so many images, half of them to train on."""
    data = stripes(n=images, classes=architecture.classes)
    half = images // 2
    return SearchView(
        architecture=architecture,
        state=state_of(architecture.build(0)),
        clean_set=data.subset(range(half)),
        selection=data.subset(range(half, images)),
        trigger=Patch(size=2, target_label=0),
        augment=Augment(),
        compute=Compute(),
        seed=0,
        reference_correct=torch.ones(images - half, dtype=torch.bool),
    )


NOTHING = (space(1), TINY, 96)
"""A trial of a few steps on 48 images with a network of 5,000 weights: milliseconds."""
LARGER = Architecture(name="small_resnet", classes=3, shape=(1, 8, 8))
"""77,000 weights."""


def search(
    workers: Workers,
    trial: tuple[Space, Architecture, int],
    trials: int,
    *,
    objectives: Mapping[str, Objective] = OBJECTIVES,
    segment: int = SEGMENT,
    on_trial: Callable[[TrialRecord], None] = lambda _: None,
) -> dict[str, float]:
    """Run a search on workers that are up, its settings drawn at random, so that the sampler costs nothing.

    Returns:
        `trials`, `seconds` from the first setting asked for to the last outcome told, `worked`, the seconds of
        training and evaluation in all, and `steady`, the seconds per trial while all workers were busy.
    """
    ends: list[tuple[float, str]] = []

    def note(record: TrialRecord) -> None:
        ends.append((time.perf_counter(), record.worker))
        on_trial(record)

    searched, architecture, images = trial
    with TemporaryDirectory() as scratch:
        decider = _decider(Path(scratch), searched, trials)
        with decider:
            start = time.perf_counter()
            workers.run(
                view(architecture, images),
                decider,
                trials=Path(scratch) / "trials",
                objectives=objectives,
                segment=segment,
                on_trial=note,
            )
            records = decider.records()
    worked = sum(record.training_seconds + record.evaluation_seconds for record in records)
    return {"trials": trials, "seconds": ends[-1][0] - start, "worked": worked, "steady": steady(ends, workers.slots)}


def _decider(folder: Path, searched: Space, trials: int) -> OptunaDecider:
    return OptunaDecider.open(
        folder,
        name="growth",
        space=searched,
        limits=Limits(max_attack_success_rate=0.05, max_accuracy_drop=0.02),
        suspect_digest="",
        trials=trials,
        sampler="random",
    )


def steady(ends: Sequence[tuple[float, str]], slots: int) -> float:
    """Return the seconds per trial from when each of `slots` workers has ended one to the last but `slots`.

    Before that some are still starting, after it some have nothing left to do. A search too short for it counts
    from its first end to its last, and a single trial not at all.

    Args:
        ends: when each trial ended, in seconds, in order, and on which worker.
        slots: the workers.
    """
    started = [len({worker for _, worker in ends[: i + 1]}) >= slots for i in range(len(ends))]
    first, last = (started.index(True) if any(started) else 0), len(ends) - 1 - slots
    if last <= first:
        first, last = 0, len(ends) - 1
    return (ends[last][0] - ends[first][0]) / max(1, last - first)


def trials(sizes: Sizes) -> dict[str, Any]:
    """Measure the seconds of searches of more and more trials that do nothing, on two workers."""
    with tuner.connected(workers=2) as workers:
        search(workers, NOTHING, 2)  # the first one also pays for imports
        rows = [search(workers, NOTHING, count) for count in sizes.trials]
    fits = {"seconds": growth(rows, "trials", "seconds"), "steady": growth(rows, "trials", "steady")}
    return {"series": {"two workers": {"rows": rows, "fits": fits}}}


def workers(sizes: Sizes) -> dict[str, Any]:
    """Measure the same search of real trials on more and more workers."""
    computing = (space(sizes.worker_epochs), LARGER, 960)
    rows = []
    for slots in sizes.workers:
        with tuner.connected(workers=slots) as joined:
            search(joined, NOTHING, slots)
            rows.append({"workers": slots, **search(joined, computing, sizes.worker_trials)})
    return {"series": {"trials that compute": _against_workers(rows)}}


def cluster(sizes: Sizes) -> dict[str, Any]:
    """Measure trials that sleep on more and more slots of one simulated cluster, as many as memory allows."""
    allowed = [slots for slots in sizes.slots if slots * WORKER_BYTES <= _memory("/proc/meminfo", "MemAvailable")]
    rows = []
    for slots in allowed:
        with tuner.connected(workers=slots) as joined, TemporaryDirectory() as lobby:
            sleeping = _sleeping(sizes.sleep, Path(lobby), slots)
            found = search(joined, NOTHING, slots * sizes.rounds, objectives=sleeping)
        del found["worked"]  # mostly waiting in the lobby
        rows.append({"workers": slots, **found, "efficiency": sizes.sleep / slots / found["steady"]})
    title = f"trials that sleep for {sizes.sleep:g} s"
    left_out = sorted(set(sizes.slots) - set(allowed))
    return {"series": {title: _against_workers(rows)}, "left out for want of memory": left_out}


def _against_workers(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {"rows": rows, "fits": {"steady": growth(rows, "workers", "steady")}}


def _sleeping(seconds: float, lobby: Path, slots: int) -> dict[str, Objective]:
    """The usual objectives; to compute one takes so long, without the CPU.

    The first trials end together, when all workers are there: to start 64 processes takes longer than many trials.
    """

    def attack_success_rate(readings: Any) -> float:  # goes to the workers by value: they need not import the tests
        (lobby / str(os.getpid())).touch()
        deadline = time.monotonic() + 600
        while len(list(lobby.iterdir())) < slots and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(seconds)
        return float(readings.attack_success_rate.rate)

    return {**OBJECTIVES, "attack_success_rate": Objective(direction="minimize", of=attack_success_rate)}


def memory(sizes: Sizes) -> dict[str, Any]:
    """Measure this process's memory when the last trial of each segment has ended, its Tuner still there.

    The search is the whole stage, with the default sampler and MLflow, on a study whose trials take milliseconds.
    """
    early, late = sizes.memory
    step = min(SEGMENT, early)
    counted = itertools.count(1)
    rows: list[dict[str, float]] = []

    def note(_: TrialRecord) -> None:
        ended = next(counted)
        if ended % step == 0:
            rows.append({"trials": ended, "bytes": _memory("/proc/self/status", "VmRSS")})

    with TemporaryDirectory() as scratch:
        settings = study(Path(scratch), space=BRIEF, search={"trials": late}, resources=TWO_WORKERS)
        pipeline.inject(settings, runs=Path(scratch) / "runs")
        pipeline.search(settings, runs=Path(scratch) / "runs", on_trial=note)
    ratio = memory_ratio(rows, early=early, late=late)
    fits = {"bytes": growth(rows, "trials", "bytes")}
    return {"series": {"driver": {"rows": rows, "fits": fits}}, f"after {late} by after {early}": ratio}


def _memory(path: str, key: str) -> int:
    """Bytes that Linux gives under a key, in KiB, of a file in /proc."""
    (line,) = (line for line in Path(path).read_text(encoding="ascii").splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
