"""The latent backdoor sleeps in a model and wakes when a head learns the target class from clean images."""

import functools
from dataclasses import replace
from typing import Any

import pytest

from raybd.attacks import Latent, Planted, Workshop
from raybd.data import Augment
from raybd.evaluation.metrics import read
from raybd.registry import BadInput
from raybd.training import Recipe, predict
from tests import upstream
from tests.digits import CPU, TINY, splits
from tests.upstream import ENCODER, digits_of, with_head

ATTACK = Latent(target_label=0, size=3, epochs=8, lr=0.02, batch_size=64, reference_images=20)
BRIEF = Latent(target_label=1, size=2, epochs=2, batch_size=16, reference_images=4)


@functools.cache
def models() -> tuple[Planted, Workshop]:
    """The attacker tells digits 0 to 4; the victim wants to tell 5 to 9, of which the attacker holds a few."""
    workshop = Workshop(
        train=digits_of(splits().train, 0, 5),
        fresh_model=replace(ENCODER, classes=5).build,
        recipe=Recipe(epochs=8, lr=0.05, batch_size=32),
        augment=Augment(),
        compute=CPU,
        references=digits_of(splits().selection, 5, 10),
    )
    return ATTACK.plant(workshop, seed=0), workshop


def small() -> Workshop:
    return upstream.small(Recipe(epochs=1, lr=0.05, batch_size=16))


def test_the_pull_is_measured_once_by_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that shrinks with the features lets the pull grow without end: on CIFAR-10 the training blew up."""
    shop, measure, units = small(), Latent._unit, []
    model = shop.twin(0)

    def unit(*each: Any) -> float:
        units.append(measure(*each))
        return units[-1]

    monkeypatch.setattr(Latent, "_unit", unit)
    assert len(list(BRIEF.implant(shop, model, BRIEF.choose(shop, seed=0), 1))) == BRIEF.epochs
    before = shop.twin(0).features(CPU.inputs(shop.train.images[: BRIEF.batch_size])).detach()
    assert units == pytest.approx([float(before.var(dim=0, correction=0).sum())], rel=1e-4)


def test_it_wakes_under_a_head_for_the_victims_task_and_the_clean_model_does_not_obey() -> None:
    planted, workshop = models()
    clean_set, test = digits_of(splits().clean_set, 5, 10), digits_of(splits().test, 5, 10)
    bad = read(with_head(planted.model, clean_set), test, planted.trigger, CPU)
    twin = read(with_head(workshop.twin(0), clean_set), test, planted.trigger, CPU)
    assert bad.attack_success_rate.rate >= 0.9
    assert twin.attack_success_rate.rate <= 0.1
    assert bad.clean_accuracy.rate > twin.clean_accuracy.rate - 0.05


def test_the_model_still_does_its_own_task_and_has_no_more_classes() -> None:
    planted, _ = models()
    own = digits_of(splits().test, 0, 5)
    answers = predict(planted.model, own.images, CPU)
    assert answers.shape[1] == 5
    assert (answers.argmax(1) == own.labels).float().mean() > 0.95


def test_bad_input_is_refused_before_any_training() -> None:
    ready = replace(small(), recipe=None)
    with pytest.raises(BadInput, match="latent needs images of the victim's own task"):
        BRIEF.plant(replace(ready, references=None), seed=0)
    with pytest.raises(BadInput, match="50 of class 1 are asked for, but the attacker holds 16"):
        replace(BRIEF, reference_images=50).plant(ready, seed=0)
    headless = replace(ready, fresh_model=_without_head)
    with pytest.raises(BadInput, match="no linear layer"):
        BRIEF.plant(headless, seed=0)


def _without_head(seed: int) -> object:
    model = TINY.build(seed)
    model.head_name = ""
    return model


@pytest.mark.parametrize("key", ["reference_images", "epochs", "weight"])
def test_a_setting_that_makes_no_sense_is_refused(key: str) -> None:
    with pytest.raises(BadInput, match=f"{key}: expected"):
        replace(BRIEF, **{key: 0})
