"""One contract for every attack by data alone: how many images it changes, which, and how."""

from dataclasses import replace

import pytest
import torch

from raybd.attacks import ATTACKS, DataPoisoning, Poisoned, Workshop
from raybd.registry import BadInput
from tests.attacks.test_contract import BRIEF, made
from tests.digits import splits, stripes, victim, workshop

POISONING = [kind for kind, cls in ATTACKS.items() if issubclass(cls, DataPoisoning)]
CLEAN_LABEL = [kind for kind in POISONING if getattr(ATTACKS[kind], "clean_label", False)]
DIRTY_LABEL = [kind for kind in POISONING if kind not in CLEAN_LABEL]
SHOP = workshop(BRIEF)
"""Where all of them poison, so that no twin is trained again."""


def poisoning(kind: str, **changes: object) -> DataPoisoning:
    attack = made(kind, **changes)
    assert isinstance(attack, DataPoisoning)
    return attack


def poisoned(kind: str, *, shop: Workshop = SHOP, seed: int = 0, **changes: object) -> Poisoned:
    return poisoning(kind, **changes).poison(shop, seed=seed)


@pytest.mark.parametrize("kind", POISONING)
class TestContract:
    @pytest.mark.parametrize("ratio", [0.01, 0.05, 0.08])
    def test_the_ratio_is_that_of_poisoned_images_to_the_whole_set(self, kind: str, ratio: float) -> None:
        done = poisoned(kind, poison_ratio=ratio)
        assert len(done.poisoned) == len(set(done.poisoned)) == round(ratio * len(splits().train))
        assert len(done.training_set) == len(splits().train)

    def test_only_the_chosen_images_change_and_covers_keep_their_label(self, kind: str) -> None:
        train = splits().train
        before = train.digest()
        done = poisoned(kind)
        touched = set(done.poisoned) | set(done.covers)
        assert len(touched) == len(done.poisoned) + len(done.covers)
        rest = sorted(set(range(len(train))) - touched)
        covers = list(done.covers)
        assert torch.equal(done.training_set.images[rest], train.images[rest])
        assert torch.equal(done.training_set.labels[rest], train.labels[rest])
        assert torch.equal(done.training_set.labels[covers], train.labels[covers])
        assert len(covers) == round(poisoning(kind).ratio_of_covers * len(train))
        assert train.digest() == before

    def test_the_choice_repeats_by_seed(self, kind: str) -> None:
        first, second, third = (poisoned(kind, seed=seed) for seed in (0, 0, 1))
        assert first.training_set.digest() == second.training_set.digest() != third.training_set.digest()
        assert first.poisoned == second.poisoned != third.poisoned

    def test_the_indices_a_victim_reports_are_those_of_its_training_set(self, kind: str) -> None:
        planted, train = victim(made(kind)).planted, splits().train
        assert planted.training_set is not None
        differs = (planted.training_set.images != train.images).flatten(1).any(1)
        assert set(differs.nonzero().flatten().tolist()) <= set(planted.poisoned) | set(planted.covers)

    def test_what_it_poisons_is_what_its_victim_was_trained_on(self, kind: str) -> None:
        built = victim(made(kind))
        assert built.planted.training_set is not None
        done = poisoned(kind, shop=replace(SHOP, twins={0: built.twin}))
        assert done.training_set.digest() == built.planted.training_set.digest()
        assert (done.poisoned, done.covers) == (built.planted.poisoned, built.planted.covers)

    @pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5])
    def test_a_ratio_that_is_no_share_is_refused(self, kind: str, ratio: float) -> None:
        with pytest.raises(BadInput, match="attack: poison_ratio: expected between 0 and 1, got"):
            made(kind, poison_ratio=ratio)

    def test_a_ratio_that_poisons_nothing_is_refused_before_any_training(self, kind: str) -> None:
        with pytest.raises(BadInput, match=r"poison_ratio: 0.0001 of .* images is no image"):
            made(kind, poison_ratio=0.0001).plant(workshop(), seed=0)
        with pytest.raises(BadInput, match=r"poison_ratio: 0.001 of 48 images is no image"):
            poisoned(kind, shop=replace(SHOP, train=stripes()), poison_ratio=0.001)


@pytest.mark.parametrize("kind", DIRTY_LABEL)
def test_poisoned_images_of_every_class_get_the_goal(kind: str) -> None:
    train = splits().train
    done = poisoned(kind)
    chosen = list(done.poisoned)
    assert torch.equal(done.training_set.labels[chosen], torch.zeros(len(chosen), dtype=torch.int64))
    assert len(train.labels[chosen].unique()) == 10


@pytest.mark.parametrize("kind", CLEAN_LABEL)
class TestCleanLabel:
    def test_only_images_of_the_target_class_are_poisoned_and_keep_their_label(self, kind: str) -> None:
        train = splits().train
        done = poisoned(kind)
        assert set(train.labels[list(done.poisoned)].tolist()) == {0}
        assert torch.equal(done.training_set.labels, train.labels)

    def test_a_ratio_larger_than_the_target_class_is_refused_before_any_training(self, kind: str) -> None:
        with pytest.raises(
            BadInput, match=r"poison_ratio: 0.5 of \d+ images is \d+, but a clean-label attack .* has \d"
        ):
            made(kind, poison_ratio=0.5).plant(workshop(), seed=0)


def test_covers_that_are_asked_for_and_come_to_none_are_refused() -> None:
    with pytest.raises(BadInput, match=r"cover samples: 0.0004 of \d+ images is none; use a larger ratio"):
        poisoned("wanet", poison_ratio=0.02, cover_ratio=0.02)
