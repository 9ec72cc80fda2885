"""Cells: one way at one size on one model, measured, compared with the plain way, and kept in a JSON file."""

import gc
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raybd.registry import as_json, digest_of, read_json, revive, write_json
from tests.benchmarks.device.bench import Bench, Finished, Round, Runner
from tests.benchmarks.device.ways import Way

TOLERANCE = {"clean_accuracy": 0.01, "attack_success_rate": 0.03}
"""How far the mean of a way may lie from that of the plain way: 1 point of C-Acc, 3 points of ASR."""
NOISE_TOLERANCE = {"loss": 0.05, "distance": 0.05}
"""The same where the images are noise: shares of the plain way's mean loss, and of the mean distance moved."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of a way beside the plain way's, over the jobs that both ended.

    `seed_noise` is the standard error of such a difference if the two had merely used different seeds.
    """

    figure: str
    jobs: int
    plain: float
    way: float
    difference: float
    largest: float
    seed_noise: float
    allowed: float

    @property
    def verdict(self) -> str:
        """`equal` within the tolerance; else `undecided` if seeds may do that (two standard errors), or `differs`."""
        if abs(self.difference) <= self.allowed:
            return "equal"
        return "undecided" if abs(self.difference) <= 2 * self.seed_noise else "differs"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What was measured for one way at one size on one model; `error` says why nothing was."""

    model: str
    way: str
    size: int
    settings_per_hour: float | None = None
    steps_per_second: float | None = None
    start_seconds: float | None = None
    evaluation_seconds: float | None = None
    prepare_seconds: float | None = None
    rounds: int = 0
    memory_gb: float | None = None
    suspect: str = ""
    finished: tuple[Finished, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    error: str = ""

    @property
    def verdict(self) -> str:
        """The worst verdict of the figures; `not checked` where no job ended within the time."""
        found = [one.verdict for one in self.comparisons]
        worst = ("differs", "undecided", "equal")
        return next((word for word in worst if word in found), "not checked")


class Store:
    """The cells in a file, which is whole after each of them; cells of other machines or options stay in it."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path, self._facts = path, facts
        self._group = digest_of(facts)[:12]
        self._document = read_json(path) if path.is_file() else {}
        self._document.setdefault(self._group, {"facts": facts, "cells": {}})

    def get(self, model: str, way: str, size: int) -> Cell | None:
        """Return a cell measured earlier on this machine with these options, or None."""
        held = self._cells.get(f"{model}/{way}/{size}")
        return None if held is None else revive(Cell, held)

    def put(self, cell: Cell) -> None:
        """Write `cell` to the file."""
        self._cells[f"{cell.model}/{cell.way}/{cell.size}"] = as_json(cell)
        write_json(self._path, self._document)

    def cells(self) -> list[Cell]:
        """Return the cells of this machine and these options."""
        return [revive(Cell, held) for held in self._cells.values()]

    @property
    def _cells(self) -> dict[str, Any]:
        return self._document[self._group]["cells"]


def measure(
    bench: Bench, names: tuple[str, str], way: Way, size: int, *, seconds: float, check_jobs: int, suspect: str
) -> Cell:
    """Measure one cell; an error in it, lack of memory among them, becomes the cell's.

    Args:
        bench: what to run.
        names: of model and way.
        way: the way.
        size: how many settings at once.
        seconds: no round starts after so many, and none trains for longer; `plain` runs all its jobs.
        check_jobs: so many jobs are compared with the plain way's.
        suspect: digest of the suspect's weights.
    """
    model, name = names
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    error, facts = "", {}
    try:
        facts = _measured(bench, way, size, seconds=math.inf if name == "plain" else seconds, check_jobs=check_jobs)
    except Exception as fault:  # noqa: BLE001 - what one way cannot do must not end the others
        error = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}"
        sys.stderr.write(f"{model} {name} {size}: {fault}\n")
    _free(way)
    return Cell(model=model, way=name, size=size, suspect=suspect, error=error, **facts)


def _measured(bench: Bench, way: Way, size: int, *, seconds: float, check_jobs: int) -> dict[str, Any]:
    begin = time.perf_counter()
    runner = way.open(bench, size)
    try:
        prepared = time.perf_counter() - begin
        rounds = _rounds(bench, runner, seconds, check_jobs)
    finally:
        runner.close()
    memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {**rate(rounds, bench.steps, size), "prepare_seconds": prepared, "memory_gb": memory}


def _rounds(bench: Bench, runner: Runner, seconds: float, check_jobs: int) -> list[Round]:
    begin = time.perf_counter()
    rounds: list[Round] = []
    for first in range(0, check_jobs, runner.size):
        left = seconds - (time.perf_counter() - begin)
        if rounds and left <= 0:
            break
        rounds.append(runner.round(bench.jobs(first, runner.size), left))
    return rounds


def rate(rounds: Sequence[Round], steps: int, size: int) -> dict[str, Any]:
    """Return settings per hour and what they follow from: a setting is its start, all its steps, its evaluation."""
    training = sum(one.training_seconds for one in rounds) / sum(one.steps for one in rounds)
    start = statistics.fmean(one.start_seconds for one in rounds)
    evaluation = statistics.fmean(one.evaluation_seconds for one in rounds)
    return {
        "settings_per_hour": 3600 * size / (start + steps * training + evaluation),
        "steps_per_second": size / training,
        "start_seconds": start,
        "evaluation_seconds": evaluation,
        "rounds": len(rounds),
        "finished": tuple(job for one in rounds for job in one.finished),
    }


def compare(plain: Cell | None, cell: Cell, settings: int, *, synthetic: bool) -> tuple[Comparison, ...]:
    """Compare the figures of `cell` with the plain way's of the same jobs; `settings` differ, then seeds do."""
    if plain is None or plain.suspect != cell.suspect:
        return ()
    own = {one.index: one for one in cell.finished}
    pairs = [(one, own[one.index]) for one in plain.finished if one.index in own]
    compared = []
    for figure, tolerance in (NOISE_TOLERANCE if synthetic else TOLERANCE).items():
        known = [(getattr(a, figure), getattr(b, figure)) for a, b in pairs]
        numbers = [(a, b) for a, b in known if a is not None and b is not None]
        if numbers:
            mean = statistics.fmean(a for a, _ in numbers)
            noise = _seed_noise(plain.finished, figure, settings) / math.sqrt(len(numbers) / 2)
            compared.append(_compared(figure, numbers, noise, tolerance * (abs(mean) if synthetic else 1)))
    return tuple(compared)


def _compared(figure: str, pairs: Sequence[tuple[float, float]], noise: float, allowed: float) -> Comparison:
    differences = [b - a for a, b in pairs]
    return Comparison(
        figure=figure,
        jobs=len(pairs),
        plain=statistics.fmean(a for a, _ in pairs),
        way=statistics.fmean(b for _, b in pairs),
        difference=statistics.fmean(differences),
        largest=max(differences, key=abs),
        seed_noise=noise,
        allowed=allowed,
    )


def _seed_noise(finished: Sequence[Finished], figure: str, settings: int) -> float:
    """The standard deviation over seeds of one job's figure, pooled over the settings; 0 with one seed each."""
    groups: dict[int, list[float]] = {}
    for one in finished:
        value = getattr(one, figure)
        if value is not None:
            groups.setdefault(one.index % settings, []).append(value)
    variances = [statistics.variance(values) for values in groups.values() if len(values) > 1]
    return math.sqrt(statistics.fmean(variances)) if variances else 0.0


def _free(way: Way) -> None:
    """Give back what a cell held, so that the next one finds the device empty."""
    if way.needs == "compiler" or "compile" in way.about:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
