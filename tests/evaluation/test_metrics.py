import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from jaxtyping import Int64
from torch import Tensor

from raybd.data import ImageSet
from raybd.evaluation.metrics import (
    Rate,
    Readings,
    attack_success_rate,
    class_drops,
    collapsed,
    image_losses,
    paired_drop,
    read,
)
from raybd.registry import BadInput
from raybd.triggers import Patch
from tests.evaluation.fakes import CLASSES, CPU, NO_NUMBER, TRIGGER, Told, told


@dataclass(frozen=True, kw_only=True)
class NextClass(Patch):
    """All-to-all: the goal is the class after the true one."""

    kind: ClassVar[str] = "next_class"

    def goal_labels(self, labels: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, " n"]:
        return (labels + 1) % CLASSES


def test_the_three_rates_count_the_right_images() -> None:
    # Two images have the goal's label 0 and leave ASR and R-Acc; of the four others two obey, one stays right.
    images = told([0, 0, 1, 1, 2, 3], clean=[0, 1, 1, 1, 2, 0], triggered=[0, 3, 0, 1, 0, 2])
    readings = read(Told(), images, TRIGGER, CPU)
    assert readings.clean_accuracy == Rate.of(4, 6)
    assert readings.attack_success_rate == Rate.of(2, 4)
    assert readings.robust_accuracy == Rate.of(1, 4)
    assert readings.correct.tolist() == [True, False, True, True, True, False]
    assert attack_success_rate(Told(), images, TRIGGER, CPU) == Rate.of(2, 4)


def test_each_pass_sees_each_image_once() -> None:
    model = Told()
    read(model, told([0, 1, 2], [0, 1, 2], [0, 0, 0]), TRIGGER, CPU)
    assert model.passes == [3, 2]


def test_a_clean_image_that_gets_the_goal_label_is_no_success_without_the_trigger() -> None:
    readings = read(Told(), told([1, 2], clean=[0, 0], triggered=[1, 2]), TRIGGER, CPU)
    assert readings.attack_success_rate.rate == 0
    assert readings.robust_accuracy.rate == 1


def test_all_to_all_goals_follow_the_true_label() -> None:
    images = told([0, 1, 2, 3], clean=[0, 1, 2, 3], triggered=[1, 2, 3, 2])
    readings = read(Told(), images, NextClass(target_label=0, size=1), CPU)
    assert readings.attack_success_rate == Rate.of(3, 4)


@pytest.mark.parametrize("labels", [[0, 0, 0], []])
def test_a_set_on_which_no_attack_can_succeed_is_refused(labels: list[int]) -> None:
    with pytest.raises(BadInput):
        read(Told(), told(labels, labels, labels), TRIGGER, CPU)


def test_logits_that_are_not_finite_are_wrong_and_never_the_goal() -> None:
    # NaN logits put argmax on class 0: the label of the first image and the goal of the attack.
    images = told([0, 1, 2], clean=[NO_NUMBER, 1, 2], triggered=[0, NO_NUMBER, 2])
    readings = read(Told(), images, TRIGGER, CPU)
    assert readings.correct.tolist() == [False, True, True]
    assert readings.attack_success_rate == Rate.of(0, 2)
    assert readings.robust_accuracy == Rate.of(1, 2)
    assert readings.losses.isinf().tolist() == [True, False, False]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_one_bad_logit_spoils_the_image(value: float) -> None:
    logits = torch.tensor([[3.0, value, 0.0], [3.0, 1.0, 0.0]])
    assert image_losses(logits, torch.tensor([0, 0])).isinf().tolist() == [True, False]


def test_losses_are_cross_entropies_that_tell_very_sure_answers_apart() -> None:
    losses = read(Told(margin=2.0), told([1, 2], [1, 0], [0, 0]), TRIGGER, CPU).losses
    total = math.log(math.exp(2) + CLASSES - 1)
    assert losses.tolist() == pytest.approx([total - 2, total], rel=1e-6)
    sure = image_losses(torch.tensor([[20.0, 0.0], [25.0, 0.0]]), torch.tensor([0, 0]))
    assert 0 < sure[1] < sure[0] < 1e-8


def readings_of(correct: Tensor, labels: Tensor) -> Readings:
    rate = Rate.of(0, 1)
    return Readings(
        clean_accuracy=rate,
        attack_success_rate=rate,
        robust_accuracy=rate,
        correct=correct,
        losses=torch.zeros(len(labels)),
        labels=labels,
    )


def test_classes_under_50_images_are_pooled_into_one_without_a_label() -> None:
    labels = torch.tensor([7] * 50 + [2] * 60 + [5] * 49 + [1] * 3)
    rates = readings_of(labels != 5, labels).per_class()
    assert [(r.label, r.n, r.rate) for r in rates] == [(2, 60, 1.0), (7, 50, 1.0), (None, 52, 3 / 52)]
    assert (rates[2].low, rates[2].high) == (Rate.of(3, 52).low, Rate.of(3, 52).high)


def test_without_small_classes_there_is_no_pool() -> None:
    labels = torch.tensor([0] * 50 + [1] * 50)
    assert [r.label for r in readings_of(labels == 0, labels).per_class()] == [0, 1]


def test_class_drops_pair_the_images_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 100 + [2] * 10)
    before, after = torch.ones(160, dtype=torch.bool), torch.ones(160, dtype=torch.bool)
    before[0], after[1:11], after[150:] = False, False, False
    drops = class_drops(readings_of(before, labels), readings_of(after, labels))
    assert [(d.label, d.drop.n, round(d.drop.value, 9)) for d in drops] == [(0, 50, 0.18), (1, 100, 0), (None, 10, 1)]
    assert drops[0].drop == paired_drop(before[:50], after[:50])


def test_class_drops_of_other_images_are_refused() -> None:
    ones = torch.ones(2, dtype=torch.bool)
    with pytest.raises(BadInput):
        class_drops(readings_of(ones, torch.tensor([0, 1])), readings_of(ones, torch.tensor([1, 0])))


def test_paired_drop_counts_lost_minus_won() -> None:
    before = torch.tensor([True] * 8 + [False] * 2)
    after = torch.tensor([False] * 3 + [True] * 6 + [False])
    drop = paired_drop(before, after)
    assert (drop.value, drop.n) == (0.2, 10)
    assert drop.low < 0.2 < drop.high


def test_collapse_is_less_than_half_of_the_reference() -> None:
    assert collapsed(0.46, 0.94)
    assert not collapsed(0.47, 0.94)
    assert collapsed(math.nan, 0.94)


def test_reading_leaves_images_and_model_alone() -> None:
    images = told([0, 1], [0, 1], [0, 0])
    digest = images.digest()
    read(Told(), images, TRIGGER, CPU)
    assert images.digest() == digest
    assert isinstance(images, ImageSet)
