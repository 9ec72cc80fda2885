import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from raybd.evaluation.membership_inference import auc_rise, loss_threshold
from raybd.registry import BadInput

# A coarse grid makes ties common; infinity is what an image with broken logits gets.
some_losses = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, math.inf]), min_size=2, max_size=40)


def losses(n: int, shift: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator, dtype=torch.float64) + shift).exp()


def auc_by_sklearn(members: Tensor, non_members: Tensor) -> float:
    finite = torch.cat([members, non_members]).nan_to_num(posinf=1e9)
    is_member = torch.cat([torch.ones(len(members)), torch.zeros(len(non_members))])
    return float(roc_auc_score(is_member.numpy(), -finite.numpy()))


def variance_by_pairs(members: Tensor, non_members: Tensor) -> float:
    """DeLong's variance straight from its definition, over all pairs."""
    gap = non_members.numpy()[None, :] - members.numpy()[:, None]
    psi = (gap > 0) + 0.5 * (gap == 0)
    return float(psi.mean(1).var(ddof=1) / len(members) + psi.mean(0).var(ddof=1) / len(non_members))


@settings(max_examples=150)
@given(some_losses, some_losses)
def test_auc_is_sklearns_ties_and_infinities_included(m: list[float], n: list[float]) -> None:
    members, non_members = torch.tensor(m), torch.tensor(n)
    reading = loss_threshold(members, non_members)
    assert reading.auc == pytest.approx(auc_by_sklearn(members, non_members), abs=1e-12)
    assert 0 <= reading.low <= reading.auc + 1e-12
    assert reading.auc - 1e-12 <= reading.high <= 1


def test_members_have_the_lower_losses() -> None:
    assert loss_threshold(torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0])).auc == 1
    assert loss_threshold(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2])).auc == 0
    assert loss_threshold(torch.zeros(5), torch.zeros(7)).auc == 0.5


def test_the_interval_is_delongs() -> None:
    members, non_members = losses(70, 0.0, 1).round(decimals=1), losses(45, 0.4, 2).round(decimals=1)
    reading = loss_threshold(members, non_members)
    half = 1.959963984540054 * math.sqrt(variance_by_pairs(members, non_members))
    assert (reading.low, reading.high) == pytest.approx((reading.auc - half, reading.auc + half), abs=1e-12)


def test_the_interval_agrees_with_a_bootstrap() -> None:
    members, non_members = losses(300, 0.0, 3), losses(200, 0.3, 4)
    reading = loss_threshold(members, non_members)
    rng = np.random.default_rng(0)
    aucs = [
        loss_threshold(members[rng.integers(0, 300, 300)], non_members[rng.integers(0, 200, 200)]).auc
        for _ in range(1500)
    ]
    low, high = np.quantile(aucs, [0.025, 0.975])
    assert (reading.low, reading.high) == pytest.approx((low, high), abs=0.008)


def test_the_rise_is_narrower_than_two_independent_readings_and_agrees_with_a_bootstrap() -> None:
    m, n = 400, 300
    before_m, before_n = losses(m, 0.0, 5), losses(n, 0.1, 6)
    # The same images, most of their loss unchanged, the members' a little lower.
    after_m, after_n = before_m * losses(m, 0.0, 7) ** 0.3 * 0.8, before_n * losses(n, 0.0, 8) ** 0.3
    rise = auc_rise(before_m, before_n, after_m, after_n)
    before, after = loss_threshold(before_m, before_n), loss_threshold(after_m, after_n)
    assert rise.value == pytest.approx(after.auc - before.auc, abs=1e-12)
    assert rise.n == m + n
    apart = math.hypot(before.high - before.low, after.high - after.low)
    assert rise.high - rise.low < 0.7 * apart
    rng = np.random.default_rng(0)
    rises = []
    for _ in range(1500):
        i, j = rng.integers(0, m, m), rng.integers(0, n, n)
        rises.append(loss_threshold(after_m[i], after_n[j]).auc - loss_threshold(before_m[i], before_n[j]).auc)
    low, high = np.quantile(rises, [0.025, 0.975])
    assert (rise.low, rise.high) == pytest.approx((low, high), abs=0.006)


def test_a_model_that_did_not_change_has_no_rise() -> None:
    members, non_members = losses(50, 0.0, 1), losses(60, 0.5, 2)
    rise = auc_rise(members, non_members, members, non_members)
    assert (rise.value, rise.low, rise.high) == (0, 0, 0)


def test_the_rise_turns_round() -> None:
    a, b, c, d = losses(50, 0.0, 1), losses(60, 0.5, 2), losses(50, 0.1, 3), losses(60, 0.2, 4)
    up, down = auc_rise(a, b, c, d), auc_rise(c, d, a, b)
    assert (down.value, down.low, down.high) == pytest.approx((-up.value, -up.high, -up.low))


@pytest.mark.parametrize(("non_members", "shown"), [(999, False), (1000, True), (2050, True)])
def test_tpr_at_1_fpr_is_read_only_with_ten_false_positives_to_count(non_members: int, shown: bool) -> None:
    members, others = losses(500, 0.0, 1), losses(non_members, 0.8, 2)
    tpr = loss_threshold(members, others).tpr_at_1_fpr
    assert (tpr is not None) == shown
    if tpr is not None:
        is_member = np.r_[np.ones(500), np.zeros(non_members)]
        scores = -torch.cat([members, others]).numpy()
        fprs, tprs, _ = roc_curve(is_member, scores, drop_intermediate=False)
        assert tpr == pytest.approx(tprs[fprs <= 0.01].max())


def test_tpr_does_not_use_a_threshold_that_ties_push_over_1_fpr() -> None:
    # All non-members share one loss, so accusing any of them accuses all.
    members = torch.tensor([0.0] * 30 + [1.0] * 70)
    assert loss_threshold(members, torch.ones(1000)).tpr_at_1_fpr == 0.3


@pytest.mark.parametrize(
    ("members", "non_members", "named"),
    [([0.1], [0.1, 0.2], "members"), ([0.1, 0.2], [], "non-members"), ([0.1, math.nan], [0.1, 0.2], "NaN")],
)
def test_too_few_losses_or_nan_are_refused(members: list[float], non_members: list[float], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        loss_threshold(torch.tensor(members), torch.tensor(non_members))
