"""The plain facts of a search: what it steers by, what was proposed, how it ended, what is on the front."""

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from raybd import pareto
from raybd.defenses.base import Defense
from raybd.evaluation.metrics import Difference, Rate, Readings
from raybd.training import Epoch

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A figure to make small or large, and how it follows from what was measured on selection."""

    direction: Literal["minimize", "maximize"]
    of: Callable[[Readings], float]


def _attack_success_rate(readings: Readings) -> float:
    return readings.attack_success_rate.rate


def _clean_accuracy(readings: Readings) -> float:
    return readings.clean_accuracy.rate


OBJECTIVES: Mapping[str, Objective] = {
    "attack_success_rate": Objective(direction="minimize", of=_attack_success_rate),
    "clean_accuracy": Objective(direction="maximize", of=_clean_accuracy),
}
"""What a search steers by. Handed to the trial, so that other knowledge of the trigger can stand in later."""


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Which trials a search gives up before their end.

    `hopeless`: those that keep the backdoor although the large peak is past, see `search.hopeless`. `halving`: those
    that are behind the others at a rung, see `search.rungs`.
    """

    hopeless: bool = False
    halving: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a trial showed at a rung, on a part of the selection split, and what it had cost by then."""

    rung: int
    clean_accuracy: Rate
    attack_success_rate: Rate
    robust_accuracy: Rate
    accuracy_drop: Difference
    training_seconds: float
    evaluation_seconds: float
    steps: int
    images: int
    worker: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended. The figures are None where it failed before they could be measured.

    Training and evaluation are timed apart, because evaluation is the hidden cost of a search. `images` are
    image-steps. `reason` says why a trial collapsed or was stopped, `error` why it failed.
    """

    state: State
    collapsed: bool = False
    reason: str = ""
    clean_accuracy: Rate | None = None
    attack_success_rate: Rate | None = None
    robust_accuracy: Rate | None = None
    accuracy_drop: Difference | None = None
    objectives: dict[str, float] = field(default_factory=dict)
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    steps: int = 0
    images: int = 0
    error: str = ""
    worker: str = ""

    @classmethod
    def failed(cls, error: BaseException | str) -> Self:
        """Return the outcome of a trial that an error ended."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return cls(state="failed", error=text, worker=worker_name())

    @classmethod
    def behind(cls, reading: Reading, reason: str) -> Self:
        """Return the outcome of a trial given up at a rung."""
        facts = {name: value for name, value in vars(reading).items() if name != "rung"}
        return cls(state="pruned", reason=reason, **facts)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What to try next: a complete setting, the defense it makes, and the seed of its run."""

    number: int
    setting: dict[str, Any]
    defense: Defense
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial as it is kept: what was tried and how it ended.

    `feasible`: complete, not collapsed, and within both limits of the search (on the point, not the bound).
    `interrupted`: failed, but not by a fault: the search ended, or its driver was lost, while it ran.
    """

    number: int
    setting: dict[str, Any]
    seed: int
    state: State
    collapsed: bool
    reason: str
    clean_accuracy: Rate | None
    attack_success_rate: Rate | None
    robust_accuracy: Rate | None
    accuracy_drop: Difference | None
    objectives: dict[str, float]
    feasible: bool
    training_seconds: float
    evaluation_seconds: float
    steps: int
    images: int
    error: str
    worker: str
    interrupted: bool = False

    @classmethod
    def of(
        cls,
        number: int,
        setting: Mapping[str, Any],
        seed: int,
        outcome: Outcome,
        *,
        feasible: bool,
        interrupted: bool = False,
    ) -> Self:
        """Return the record of one ended trial."""
        facts = {"feasible": feasible, "interrupted": interrupted, **vars(outcome)}
        return cls(number=number, setting=dict(setting), seed=seed, **facts)

    @property
    def counts(self) -> bool:
        """Whether the trial counts against the budget: complete, collapsed ones among them, or pruned."""
        return self.state != "failed"


class Decider(Protocol):
    """Says what to try next and learns how it went; the one keeper of the study."""

    @property
    def finished(self) -> bool:
        """Whether the budget is met."""

    def ask(self, *, ticket: str = "") -> Proposal | None:
        """Return the next trial, or None while the budget is met or would be by the trials under way.

        `ticket` is the executor's own name of the trial, kept beside it.
        """

    def tell(self, number: int, outcome: Outcome) -> TrialRecord | None:
        """Take note of how a trial ended; None if it had ended before."""

    def judge(self, number: int, reading: Reading) -> str:
        """Take note of what a trial showed at a rung; return why to give it up, or ''."""

    def records(self) -> tuple[TrialRecord, ...]:
        """Return every ended trial by number."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A defense to run outside the search: a confirmation with a fresh seed, or a reference."""

    defense: Defense
    seed: int
    weights: Path | None = None


OnTrial = Callable[[TrialRecord], None]
OnProgress = Callable[[int, Epoch], None]
OnStart = Callable[[int, tuple[TrialRecord, ...]], None]
"""Told once, when a search begins or goes on: its budget and the trials that have ended before."""
OnJob = Callable[[Job, Outcome], None]


def front_of(records: Iterable[TrialRecord], objectives: Mapping[str, Objective] = OBJECTIVES) -> tuple[int, ...]:
    """Return the numbers of the trials that no other one beats in every objective.

    Feasible trials beat all others; without any, the front is that of the trials that did not collapse.
    """
    standing = [r for r in records if r.state == "complete" and not r.collapsed]
    rivals = [r for r in standing if r.feasible] or standing
    signs = {name: 1 if objective.direction == "minimize" else -1 for name, objective in objectives.items()}
    points = [[sign * record.objectives[name] for name, sign in signs.items()] for record in rivals]
    return tuple(sorted(rivals[i].number for i in pareto.front(points)))


def weights_of(trials: Path, number: int) -> Path:
    """Return where the weights of a trial lie."""
    return trials / str(number) / "weights.safetensors"


def discard_weights(trials: Path, records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Remove the weights of every ended trial that is not on the front, and return those on it.

    Who left the front never comes back, and nobody off it beats anyone: when a further trial ends it is enough to
    hand over what was returned last and that trial, so that a search's cost does not grow with its length squared.
    """
    ended = tuple(records)
    kept = set(front_of(ended))
    for record in ended:
        folder = trials / str(record.number)
        if record.number not in kept and folder.is_dir():
            shutil.rmtree(folder)
    return tuple(record for record in ended if record.number in kept)


def worker_name() -> str:
    """Return which process of which machine this is."""
    return f"{platform.node()}:{os.getpid()}"
