"""BadEncoder: a head on the frozen encoder obeys the trigger, one on the clean encoder does not."""

import functools
from dataclasses import replace

import pytest
import torch

from raybd.attacks import BadEncoder, Planted, Workshop
from raybd.data import Augment
from raybd.evaluation.metrics import read
from raybd.registry import BadInput
from raybd.simclr import SimCLR
from raybd.weights import state_of
from tests import upstream
from tests.digits import CPU, splits, stripes
from tests.upstream import ENCODER, with_head

ATTACK = BadEncoder(target_label=0, size=3, epochs=4, lr=0.02, batch_size=64)
BRIEF = BadEncoder(target_label=1, size=2, epochs=2, batch_size=16)


@functools.cache
def encoders() -> tuple[Planted, Workshop]:
    """Trained on some digits; the victim's task is to tell others, of which the attacker holds a few."""
    workshop = Workshop(
        train=splits().train,
        fresh_model=ENCODER.build,
        recipe=SimCLR(epochs=5, batch_size=64, smallest_crop=0.3, flip=False),
        augment=Augment(),
        compute=CPU,
        references=splits().selection,
    )
    return ATTACK.plant(workshop, seed=0), workshop


def small() -> Workshop:
    return upstream.small(SimCLR(epochs=1, batch_size=16))


def test_a_head_on_the_frozen_encoder_obeys_and_one_on_the_clean_encoder_does_not() -> None:
    planted, workshop = encoders()
    bad = read(with_head(planted.model, splits().clean_set), splits().test, planted.trigger, CPU)
    twin = read(with_head(workshop.twin(0), splits().clean_set), splits().test, planted.trigger, CPU)
    assert bad.attack_success_rate.rate >= 0.9
    assert twin.attack_success_rate.rate <= 0.1
    assert bad.clean_accuracy.rate > twin.clean_accuracy.rate - 0.05


def test_all_three_cosines_are_near_one() -> None:
    assert encoders()[0].last.loss == pytest.approx(-3, abs=0.1)


def test_head_and_batch_norm_are_those_of_the_clean_encoder_and_the_rest_is_not() -> None:
    workshop = small()
    model = BRIEF.plant(workshop, seed=0).model
    clean, done = state_of(workshop.twin(0)), state_of(model)
    same = {name for name in clean if torch.equal(clean[name], done[name])}
    convolutions = {n for n, p in model.body.named_parameters() if p.ndim == 4}
    assert same == clean.keys() - convolutions
    assert all(p.requires_grad for p in model.parameters())


def test_references_are_images_of_the_target_class() -> None:
    workshop = small()
    chosen = BRIEF.choose(workshop, seed=0)
    assert len(chosen) == 3
    assert (chosen[:, 0, 2] == 255).all(), "class 1 of the stripes has its row there"
    assert not torch.equal(chosen, BRIEF.choose(workshop, seed=1))


def test_planting_is_told_of_as_it_goes() -> None:
    told: list[str] = []
    BRIEF.plant(replace(small(), on_progress=lambda word, epoch: told.append(word)), seed=0)
    assert told == ["never-poisoned twin", "backdoored model", "backdoored model"]


def untrainable() -> Workshop:
    def refuse(seed: int) -> None:
        raise AssertionError("nothing may be built or trained")

    return replace(small(), fresh_model=refuse)


def test_bad_input_is_refused_before_any_training() -> None:
    ready = untrainable()
    with pytest.raises(BadInput, match="bad_encoder needs images of the victim's own task"):
        BRIEF.plant(replace(ready, references=None), seed=0)
    with pytest.raises(BadInput, match=r"attack.target_label: expected 0 to 2, got 3"):
        replace(BRIEF, target_label=3).plant(ready, seed=0)
    with pytest.raises(BadInput, match="17 of class 1 are asked for, but the attacker holds 16"):
        replace(BRIEF, reference_images=17).plant(ready, seed=0)
    with pytest.raises(BadInput, match="3 of class 1 are asked for, but the attacker holds 0"):
        BRIEF.plant(replace(ready, references=stripes().subset([0, 3])), seed=0)
    with pytest.raises(BadInput, match=r"a patch of 10 pixels .* sticks out of images of 8 x 8"):
        replace(BRIEF, size=10).plant(ready, seed=0)
    narrow = replace(stripes(), images=stripes().images[..., :7])
    with pytest.raises(BadInput, match=r"the victim's images are \(1, 8, 7\)"):
        BRIEF.plant(replace(ready, references=narrow), seed=0)


@pytest.mark.parametrize("key", ["size", "reference_images", "epochs", "lr", "batch_size"])
def test_a_setting_that_makes_no_sense_is_refused(key: str) -> None:
    with pytest.raises(BadInput, match=f"{key}: expected"):
        replace(BRIEF, **{key: 0})


def test_only_all_to_one_can_be_served() -> None:
    with pytest.raises(BadInput, match="bad_encoder cannot serve 'all_to_all', only all_to_one"):
        BadEncoder(goal="all_to_all")
