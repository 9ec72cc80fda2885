"""Membership inference by loss threshold: can a stranger tell which images a model was trained on?"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from raybd.evaluation.intervals import Difference, Z
from raybd.registry import BadInput

MIN_FALSE_POSITIVES = 10
"""A true-positive rate at a false-positive rate f is read only where f * non_members is at least this."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MembershipReading:
    """How well the loss tells members from non-members: 0.5 is chance, 1 gives every member away.

    `low` and `high` bound `auc` at 95 % (DeLong). `tpr_at_1_fpr` is the share of members found while at most
    1 % of the non-members are accused; None with fewer than 1,000 non-members.
    """

    auc: float
    low: float
    high: float
    tpr_at_1_fpr: float | None
    members: int
    non_members: int


def loss_threshold(member_losses: Float[Tensor, " m"], non_member_losses: Float[Tensor, " n"]) -> MembershipReading:
    """Attack that calls an image a member if its loss is below a threshold, over all thresholds.

    Never read it off a collapsed model: what learnt nothing, or forgot everything, looks private.

    Args:
        member_losses: loss of each image the model was trained on; infinite ones are allowed.
        non_member_losses: loss of each image it has never seen.

    Raises:
        BadInput: fewer than two members or non-members, or a loss that is NaN.

    Reference: Yeom et al., "Privacy risk in machine learning", 2018 (arXiv 1709.01604); interval: DeLong
    et al., "Comparing the areas under two or more correlated ROC curves", Biometrics 44 (1988). Like every
    interval by DeLong it has no width where members and non-members are perfectly apart.
    """
    members, non_members = _checked("members", member_losses), _checked("non-members", non_member_losses)
    by_member, by_non_member = _components(members, non_members)
    auc = float(by_member.mean())
    half = Z * math.sqrt(_variance(by_member) + _variance(by_non_member))
    return MembershipReading(
        auc=auc,
        low=max(0.0, auc - half),
        high=min(1.0, auc + half),
        tpr_at_1_fpr=_tpr_at_1_fpr(members, non_members),
        members=len(members),
        non_members=len(non_members),
    )


def auc_rise(
    before_members: Float[Tensor, " m"],
    before_non_members: Float[Tensor, " n"],
    after_members: Float[Tensor, " m"],
    after_non_members: Float[Tensor, " n"],
) -> Difference:
    """The AUC after minus the AUC before, on the same images in the same order; paired DeLong interval.

    Raises:
        BadInput: as `loss_threshold`, or other numbers of images after than before.
    """
    if before_members.shape != after_members.shape or before_non_members.shape != after_non_members.shape:
        raise BadInput("a rise of the membership AUC needs the same images before and after")
    before = _components(_checked("members", before_members), _checked("non-members", before_non_members))
    after = _components(_checked("members", after_members), _checked("non-members", after_non_members))
    # Differences of the paired components carry their covariance, so their variance is DeLong's for the rise.
    by_member, by_non_member = after[0] - before[0], after[1] - before[1]
    value = float(by_member.mean())
    half = Z * math.sqrt(_variance(by_member) + _variance(by_non_member))
    return Difference(
        value=value,
        low=max(-1.0, value - half),
        high=min(1.0, value + half),
        n=len(by_member) + len(by_non_member),
    )


def _checked(who: str, losses: Tensor) -> _Array:
    if len(losses) < 2:
        raise BadInput(f"membership inference needs at least two {who}, got {len(losses)}")
    if bool(torch.isnan(losses).any()):
        raise BadInput(f"membership inference: {int(torch.isnan(losses).sum())} losses of {who} are NaN")
    return losses.double().cpu().numpy()


def _components(members: _Array, non_members: _Array) -> tuple[_Array, _Array]:
    """DeLong's structural components: for each image, the share of the other side it is rightly ordered with.

    By midranks in O(n log n), ties count half. Reference: X. Sun, W. Xu, "Fast implementation of DeLong's
    algorithm", IEEE Signal Processing Letters 21 (2014).
    """
    m, n = len(members), len(non_members)
    # A member should have the lower loss, so ranks go by the loss turned round.
    ranks = _midranks(-np.concatenate([members, non_members]))
    by_member = (ranks[:m] - _midranks(-members)) / n
    by_non_member = 1 - (ranks[m:] - _midranks(-non_members)) / m
    return by_member, by_non_member


def _midranks(values: _Array) -> _Array:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    shared: _Array = np.cumsum(sizes) - (sizes - 1) / 2
    return shared[group]


def _variance(components: _Array) -> float:
    return float(components.var(ddof=1)) / len(components)


def _tpr_at_1_fpr(members: _Array, non_members: _Array) -> float | None:
    allowed = len(non_members) // 100
    if allowed < MIN_FALSE_POSITIVES:
        return None
    # Below the (allowed + 1)-th smallest loss lie at most `allowed` non-members, ties and all.
    threshold = np.partition(non_members, allowed)[allowed]
    return float((members < threshold).mean())
