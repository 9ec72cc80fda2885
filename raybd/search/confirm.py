"""Confirmation: the best few settings again with fresh seeds, or, if none will do, what to try instead."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd import gate as gates
from raybd.defenses.base import Defense
from raybd.evaluation.metrics import Difference, Rate
from raybd.gate import Gate
from raybd.search.records import Job, Outcome, TrialRecord
from raybd.search.space import Choice, Dimension, Space
from raybd.seeds import derive

BEST = 3
SEEDS = 3
EDGE = 0.1
"""A value within this share of a range's ends is at its edge."""

MapJobs = Callable[[Sequence[Job]], Sequence[Outcome]]


@dataclass(frozen=True, kw_only=True)
class ConfirmedCard:
    """One setting retrained with fresh seeds, as a card holds it; every tuple holds one entry per seed.

    All is measured on selection. A score is the larger of bound / limit over ASR and accuracy drop: at most 1 meets the
    gate; None stands for a seed that collapsed.
    """

    number: int
    setting: dict[str, Any]
    seeds: tuple[int, ...]
    scores: tuple[float | None, ...]
    clean_accuracy: tuple[Rate, ...]
    attack_success_rate: tuple[Rate, ...]
    robust_accuracy: tuple[Rate, ...]
    accuracy_drop: tuple[Difference, ...]
    training_seconds: tuple[float, ...]
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Confirmed(ConfirmedCard):
    """The same with its weights, one file per seed; the score of a seed that collapsed is infinite."""

    scores: tuple[float, ...]
    weights: tuple[Path, ...]

    @property
    def score(self) -> float:
        """The mean score of the seeds."""
        return statistics.mean(self.scores)

    @property
    def shown(self) -> int:
        """The index of the seed with the median score: neither the lucky nor the unlucky one ships.

        Equal scores, such as no hit at all, are told apart by accuracy, so that its median ships and no accident.
        """
        order = sorted(range(len(self.scores)), key=lambda i: (self.scores[i], self.accuracy_drop[i].value))
        return order[len(order) // 2]


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What the fresh seeds said; `winner` is None where nothing meets the gate, and `why` says so in words."""

    confirmed: tuple[Confirmed, ...]
    winner: Confirmed | None
    why: str


def confirm(
    records: Sequence[TrialRecord],
    *,
    space: Space,
    gate: Gate,
    seed: int,
    folder: Path,
    map_jobs: MapJobs,
    best: int = BEST,
    seeds: int = SEEDS,
) -> Confirmation:
    """Retrain the best settings of a search with fresh seeds and choose among them.

    Candidates are the trials whose bounds on selection meet the gate, those with the most room first. The best
    mean score wins, and must meet the gate itself.

    Args:
        records: of the search.
        space: of the search.
        gate: its limits on ASR and accuracy drop are used.
        seed: of the search.
        folder: takes the weights, as NUMBER/SEED/weights.safetensors.
        map_jobs: runs the trainings.
        best: so many settings are retrained.
        seeds: with so many seeds each.

    Raises:
        RuntimeError: if a training fails.
    """
    candidates = gates.rank([r for r in records if r.state == "complete" and not r.collapsed], gate)[:best]
    if not candidates:
        return Confirmation(confirmed=(), winner=None, why=nothing_feasible(records, space=space, gate=gate))
    draws = _draws(records)
    jobs = [_jobs(r, draws[r.seed], space.build(r.setting), seed, folder, seeds) for r in candidates]
    outcomes = list(map_jobs([job for group in jobs for job in group]))
    confirmed = tuple(
        _confirmed(record, group, outcomes[i * seeds : (i + 1) * seeds], gate)
        for i, (record, group) in enumerate(zip(candidates, jobs, strict=True))
    )
    winner = min(confirmed, key=lambda c: (c.score, -statistics.mean(r.rate for r in c.clean_accuracy)))
    if not winner.score <= 1:
        return Confirmation(confirmed=confirmed, winner=None, why=_not_again(confirmed, gate, seeds))
    return Confirmation(confirmed=confirmed, winner=winner, why=_why(winner, confirmed, gate, seeds))


def _draws(records: Sequence[TrialRecord]) -> dict[int, int]:
    """The place of every setting in the order in which they were proposed, by the seed that its trials share.

    A failed trial is repeated under a new number: fresh seeds that hung on numbers would make another candidate of
    the same search.
    """
    first = dict.fromkeys(record.seed for record in sorted(records, key=lambda r: r.number))
    return {seed: place for place, seed in enumerate(first)}


def _jobs(record: TrialRecord, draw: int, defense: Defense, seed: int, folder: Path, seeds: int) -> list[Job]:
    home = folder / str(record.number)
    return [
        Job(
            defense=defense,
            seed=derive(seed, "confirm", draw, i),
            weights=home / str(i) / "weights.safetensors",
        )
        for i in range(seeds)
    ]


def _confirmed(record: TrialRecord, jobs: Sequence[Job], outcomes: Sequence[Outcome], gate: Gate) -> Confirmed:
    for outcome in outcomes:
        if outcome.state == "failed":
            raise RuntimeError(f"trial {record.number} could not be repeated with a fresh seed: {outcome.error}")
    asr = tuple(o.attack_success_rate for o in outcomes if o.attack_success_rate is not None)
    drop = tuple(o.accuracy_drop for o in outcomes if o.accuracy_drop is not None)
    return Confirmed(
        number=record.number,
        setting=record.setting,
        seeds=tuple(job.seed for job in jobs),
        scores=tuple(
            math.inf if o.collapsed else gates.score(a, d, gate) for o, a, d in zip(outcomes, asr, drop, strict=True)
        ),
        clean_accuracy=tuple(o.clean_accuracy for o in outcomes if o.clean_accuracy is not None),
        attack_success_rate=asr,
        robust_accuracy=tuple(o.robust_accuracy for o in outcomes if o.robust_accuracy is not None),
        accuracy_drop=drop,
        training_seconds=tuple(o.training_seconds for o in outcomes),
        images=tuple(o.images for o in outcomes),
        weights=tuple(job.weights for job in jobs if job.weights is not None),
    )


def _why(winner: Confirmed, confirmed: Sequence[Confirmed], gate: Gate, seeds: int) -> str:
    asr = max(rate.high for rate in winner.attack_success_rate)
    drop = max(difference.high for difference in winner.accuracy_drop)
    return (
        f"trial {winner.number} has the smallest mean score over {seeds} fresh seeds, that is, stays furthest "
        f"inside both limits: {_scores(confirmed)} (larger of bound / limit; at most 1 meets the gate). Its worst "
        f"bounds are ASR {asr:.2%} (limit {gate.max_attack_success_rate:.2%}) and accuracy drop {drop:.2%} "
        f"(limit {gate.max_accuracy_drop:.2%}); the weights of the seed with the median score ship."
        f"{_alike(winner)}"
    )


def _alike(winner: Confirmed) -> str:
    """A warning where fresh seeds changed nothing, and so confirm nothing; else ''."""
    figures = set(zip(winner.clean_accuracy, winner.robust_accuracy, winner.attack_success_rate, strict=True))
    if len(figures) > 1 or len(winner.seeds) == 1:
        return ""
    return (
        f" All {len(winner.seeds)} seeds gave the same figures: where the clean images fit into one batch, a seed "
        "changes little but their order, so they confirm little."
    )


def _not_again(confirmed: Sequence[Confirmed], gate: Gate, seeds: int) -> str:
    """What to say when settings met the gate in the search and none did again: they were lucky there."""
    lines = [f"No setting met the gate again with {seeds} fresh seeds: {_scores(confirmed)} (at most 1 meets it)."]
    for each in confirmed:
        asr = statistics.mean(rate.high for rate in each.attack_success_rate)
        drop = statistics.mean(difference.high for difference in each.accuracy_drop)
        lines.append(
            f"  trial {each.number}: mean bound of ASR {asr:.2%} (limit {gate.max_attack_success_rate:.2%}), of the "
            f"accuracy drop {drop:.2%} (limit {gate.max_accuracy_drop:.2%})"
        )
    return "\n".join([*lines, "Try more trials (--trials +N), more clean data or a larger selection split."])


def _scores(confirmed: Sequence[Confirmed]) -> str:
    ordered = sorted(confirmed, key=lambda c: c.score)
    return ", ".join(f"trial {c.number}: {c.score:.2f}" for c in ordered)


def nothing_feasible(records: Sequence[TrialRecord], *, space: Space, gate: Gate) -> str:
    """Return in words which trials came nearest to the gate on selection, and what to widen."""
    points = gates.nearest([r for r in records if r.state == "complete" and not r.collapsed], gate)
    if not points:
        ended = sum(r.counts for r in records)
        return f"Nothing to choose from: of {ended} trials none ended without collapse; lower the learning rates."
    lines = [f"No trial meets the gate on selection. Nearest, of {len(records)} trials:"]
    lines += [f"  {_described(point, gate)}" for point in points]
    return "\n".join([*lines, *_advice(points, space, gate)])


def _described(point: TrialRecord, gate: Gate) -> str:
    asr, drop = point.attack_success_rate, point.accuracy_drop
    assert asr is not None
    assert drop is not None
    values = ", ".join(f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in point.setting.items())
    return (
        f"trial {point.number}: ASR {asr.rate:.2%} (bound {asr.high:.2%}, limit {gate.max_attack_success_rate:.2%}),"
        f" accuracy drop {drop.value:.2%} (bound {drop.high:.2%}, limit {gate.max_accuracy_drop:.2%}); {values}"
    )


def _advice(points: Sequence[TrialRecord], space: Space, gate: Gate) -> list[str]:
    sizes = [rate.n for p in points if (rate := p.attack_success_rate) is not None]
    if gates.smallest_bound(min(sizes)) > min(gate.max_attack_success_rate, gate.max_accuracy_drop):
        few = f"on {min(sizes)} images not even a perfect result could meet the gate"
        return [f"The selection split is too small: {few}. Enlarge it (data.selection.size), or widen the gate."]
    edges = [text for name, dim in space.search.items() if (text := _edge(name, dim, points))]
    if edges:
        return ["Widen the space where the nearest trials lie at its edge:", *(f"  {text}" for text in edges)]
    return ["None lies at an edge of the space: before a wider one, try more trials (--trials +N) or clean data."]


def _edge(name: str, dimension: Dimension, points: Sequence[TrialRecord]) -> str:
    """The hint for a dimension at whose lower or upper edge most of the points lie, else ''."""
    if isinstance(dimension, Choice):
        return ""
    places = [_place(float(p.setting[name]), dimension.low, dimension.high, dimension.log) for p in points]
    below, above = sum(p <= EDGE for p in places), sum(p >= 1 - EDGE for p in places)
    if max(below, above) * 2 <= len(points):
        return ""
    end, limit, count = ("below", dimension.low, below) if below > above else ("above", dimension.high, above)
    return f"{name}: {count} of {len(points)} lie at its edge; go {end} {limit:g}"


def _place(value: float, low: float, high: float, log: bool) -> float:
    """Where `value` lies between `low` (0) and `high` (1)."""
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)
