"""Blended lays the same faint picture over images of every class."""

import pytest
import torch

from raybd.attacks import Blended
from raybd.registry import BadInput
from raybd.triggers import Blended as BlendedTrigger
from tests.digits import splits, workshop


def test_its_fields_are_those_of_its_picture() -> None:
    attack = Blended(target_label=3, alpha=0.3, pattern_seed=7)
    assert attack.trigger() == BlendedTrigger(target_label=3, alpha=0.3, seed=7)


def test_the_picture_depends_on_its_own_seed_and_not_on_the_choice_of_images() -> None:
    train = splits().train
    for seed in (0, 1):
        done = Blended(target_label=3, pattern_seed=7).poison(workshop(), seed=seed)
        chosen = list(done.poisoned)
        expected = BlendedTrigger(target_label=3, seed=7).apply(train.images[chosen])
        assert torch.equal(done.training_set.images[chosen], expected)


def test_it_draws_from_every_class_the_target_included() -> None:
    chosen = Blended(target_label=3).poison(workshop(), seed=0).poisoned
    assert len(splits().train.labels[list(chosen)].unique()) == 10


def test_a_weight_that_makes_no_sense_is_refused_when_the_study_is_read() -> None:
    with pytest.raises(BadInput, match=r"alpha: expected above 0, at most 1, got 1.5"):
        Blended(target_label=0, alpha=1.5)
