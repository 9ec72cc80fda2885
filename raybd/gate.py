"""What a candidate must prove before it ships, and the rule that picks one: pure functions on numbers."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, TypeVar, runtime_checkable

from raybd.evaluation.intervals import MIN_CLASS_IMAGES, ClassDrop, Difference, Rate
from raybd.registry import BadInput

__all__ = [
    "Check",
    "ClassDrop",
    "Evidence",
    "Gate",
    "Measured",
    "Status",
    "nearest",
    "rank",
    "refusals",
    "score",
    "smallest_bound",
]

Status = Literal["passed", "failed", "undecided"]
_SEVERITY: dict[Status, int] = {"passed": 0, "undecided": 1, "failed": 2}


ALL_POOLED = (
    f"no class has {MIN_CLASS_IMAGES} test images, so all were judged as one: that a single class is lost would not "
    "show"
)
"""What a limit on classes is worth where none could be judged alone."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured on the test split: the candidate's attack success, its changes from the reference.

    `class_drops` is what `evaluation.metrics.class_drops` gives; `membership_auc_rise` is None if it was not
    measured.
    """

    attack_success_rate: Rate
    accuracy_drop: Difference
    class_drops: tuple[ClassDrop, ...]
    membership_auc_rise: Difference | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One limit and what was measured against it.

    `value` and `bound` (the upper end of its 95 % interval) are fractions, None where there is no figure; `n`
    counts the images. `detail` is one sentence that names them all.
    """

    name: str
    value: float | None
    bound: float | None
    limit: float
    n: int
    status: Status
    detail: str


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The limits, as fractions. Each is judged on the upper end of a 95 % interval, never on the point.

    `max_accuracy_drop` and `max_class_accuracy_drop` count from the reference model,
    `max_membership_auc_rise` from the suspect; that one is None for no such limit (nobody knows the members).

    Raises:
        BadInput: a limit lies outside (0, 1].
    """

    max_attack_success_rate: float
    max_accuracy_drop: float
    max_class_accuracy_drop: float
    max_membership_auc_rise: float | None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            optional = field.name == "max_membership_auc_rise"
            # Written so that NaN, for which every comparison is false, is refused too.
            if not (limit is None and optional) and not 0 < limit <= 1:
                raise BadInput(f"{field.name}: expected a fraction in (0, 1], got {limit!r}")

    def judge(self, evidence: Evidence) -> tuple[Check, ...]:
        """One check per limit that is set; anything but "passed" refuses.

        "failed": the bound is over the limit. "undecided": it is, but for want of images alone (a perfect
        result on as many could not meet the limit either, or nothing was lost), or there is no figure.
        """
        rate = evidence.attack_success_rate
        success = Difference(value=rate.rate, low=rate.low, high=rate.high, n=rate.n)
        checks = [
            _check("attack_success_rate", success, self.max_attack_success_rate),
            _check("accuracy_drop", evidence.accuracy_drop, self.max_accuracy_drop),
            _class_check(evidence.class_drops, self.max_class_accuracy_drop),
        ]
        if self.max_membership_auc_rise is not None:
            checks.append(_membership_check(evidence.membership_auc_rise, self.max_membership_auc_rise))
        return tuple(checks)

    def verdict(self, checks: Sequence[Check]) -> tuple[str, ...]:
        """Why `checks` do not open this gate, one readable sentence each; empty when it is open.

        Beside every check that did not pass: each limit without exactly one check, each check without a limit.
        """
        set_names = self._names()
        judged = Counter(check.name for check in checks)
        odd = [
            f"max_{name} is set, but {judged[name] or 'no'} checks were made of {name}; expected one"
            for name in set_names
            if judged[name] != 1
        ]
        odd += [f"{name} was checked, but max_{name} is not set" for name in judged if name not in set_names]
        return (*refusals(checks), *odd)

    def _names(self) -> tuple[str, ...]:
        """The names of the checks that the limits ask for, those that are set."""
        limits = (field.name for field in fields(self) if getattr(self, field.name) is not None)
        return tuple(name.removeprefix("max_") for name in limits)


def refusals(checks: Sequence[Check]) -> tuple[str, ...]:
    """One readable sentence for each check that did not pass; whether all were made, `Gate.verdict` says."""
    return tuple(check.detail for check in checks if check.status != "passed")


def smallest_bound(n: int) -> float:
    """The upper bound of a perfect result on `n` images: no hit; or all right before and nothing lost."""
    return Rate.of(0, n).high


@runtime_checkable
class Measured(Protocol):
    """A point of a search, as far as the selection rule needs to know it; None where it was not measured."""

    @property
    def attack_success_rate(self) -> Rate | None:
        """Of the sanitized model, on selection."""

    @property
    def accuracy_drop(self) -> Difference | None:
        """From the reference model, paired, on selection."""

    @property
    def clean_accuracy(self) -> Rate | None:
        """Of the sanitized model, on selection."""


Point = TypeVar("Point", bound=Measured)


def score(attack_success_rate: Rate, accuracy_drop: Difference, gate: Gate) -> float:
    """The larger of bound / limit over attack success and accuracy drop: at most 1 meets the gate.

    Infinite where a bound is not a number.
    """
    ratios = (
        attack_success_rate.high / gate.max_attack_success_rate,
        accuracy_drop.high / gate.max_accuracy_drop,
    )
    return math.inf if any(math.isnan(ratio) for ratio in ratios) else max(ratios)


def rank(points: Sequence[Point], gate: Gate) -> list[Point]:
    """The points that meet the gate, best first: smallest score, then higher clean accuracy, then as given.

    The score is the larger of bound / limit, so that no point is picked that sits on the edge of a limit.
    """
    return [point for point in _ordered(points, gate) if _score_of(point, gate) <= 1]


def nearest(points: Sequence[Point], gate: Gate, k: int = 3) -> list[Point]:
    """The `k` measured points nearest to meeting the gate, best first: for the message that none does."""
    return _ordered(points, gate)[:k]


def _ordered(points: Sequence[Point], gate: Gate) -> list[Point]:
    measured = [point for point in points if math.isfinite(_score_of(point, gate))]
    return sorted(measured, key=lambda point: (_score_of(point, gate), -_accuracy_of(point)))


def _score_of(point: Measured, gate: Gate) -> float:
    if point.attack_success_rate is None or point.accuracy_drop is None:
        return math.inf
    return score(point.attack_success_rate, point.accuracy_drop, gate)


def _accuracy_of(point: Measured) -> float:
    return point.clean_accuracy.rate if point.clean_accuracy is not None else 0.0


def _check(name: str, figure: Difference, limit: float, *, subject: str = "", counted: bool = True) -> Check:
    """Judge one figure; `counted` says that it is a share of images, for which `smallest_bound` holds."""
    if not all(math.isfinite(number) for number in (figure.value, figure.low, figure.high)):
        return _undecided(name, limit, f"the figure{subject} is not a number", n=figure.n)
    status = _status(figure, limit, smallest_bound(figure.n) if counted else 0.0)
    verdict = {
        "passed": "within",
        "failed": "over",
        "undecided": f"{figure.n} images are too few to prove",
    }[status]
    return Check(
        name=name,
        value=figure.value,
        bound=figure.high,
        limit=limit,
        n=figure.n,
        status=status,
        detail=(
            f"{name}{subject} is {figure.value:.2%}, its 95 % upper bound on {figure.n} images"
            f" {figure.high:.2%}: {verdict} max_{name} {limit:.2%}"
        ),
    )


def _status(figure: Difference, limit: float, attainable: float) -> Status:
    if figure.high <= limit:
        return "passed"
    # An interval wholly over the limit has decided, however few the images. One around no loss at all, or
    # where a perfect result would be over the limit too, only lacks images.
    if figure.low <= limit and (attainable > limit or figure.value <= 0):
        return "undecided"
    return "failed"


def _class_check(drops: Sequence[ClassDrop], limit: float) -> Check:
    """The worst class speaks for all: failed before undecided before passed, then the highest bound."""
    name = "class_accuracy_drop"
    if not drops:
        return _undecided(name, limit, "no class was measured")
    checks = [_check(name, one.drop, limit, subject=f" of {_class_name(one.label)}") for one in drops]
    refused = sum(check.status != "passed" for check in checks)
    # A figure that is no number has no bound and leads its rank.
    worst = max(checks, key=lambda c: (_SEVERITY[c.status], math.inf if c.bound is None else c.bound))
    if [one.label for one in drops] == [None]:
        return replace(worst, detail=f"{worst.detail} ({ALL_POOLED})")
    if refused > 1:
        return replace(worst, detail=f"{worst.detail} (the worst of {refused} classes over it, of {len(checks)})")
    return worst


def _class_name(label: int | None) -> str:
    return "the pooled small classes" if label is None else f"class {label}"


def _membership_check(rise: Difference | None, limit: float) -> Check:
    if rise is None:
        why = "it was not measured (the members are not known, or a model has collapsed)"
        return _undecided("membership_auc_rise", limit, why)
    return _check("membership_auc_rise", rise, limit, counted=False)


def _undecided(name: str, limit: float, why: str, n: int = 0) -> Check:
    detail = f"{name} on {n} images: {why}, so nothing shows that it is within max_{name} {limit:.2%}"
    return Check(name=name, value=None, bound=None, limit=limit, n=n, status="undecided", detail=detail)
