"""The trojan attack excites neurons that do not speak for the target, and only then ties them to it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from raybd.attacks import Planted, Trojan
from raybd.attacks.trojan import neurons
from raybd.evaluation.twin import check_twin
from raybd.registry import BadInput
from raybd.training import Epoch, Recipe
from raybd.triggers import Stamp
from tests.attacks.test_contract import made
from tests.digits import CPU, splits, victim, workshop


def planted() -> Planted:
    return victim(made("trojan")).planted


def test_the_patch_excites_the_chosen_neurons_of_the_twin_far_more_than_noise_does() -> None:
    twin, images = victim(made("trojan")).twin, splits().test.images
    noise = torch.randint(0, 256, (1, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    chosen = neurons(twin.head, 0, 2)

    def activation(trigger: Stamp) -> float:
        with torch.inference_mode():
            return twin.eval().features(CPU.inputs(trigger.apply(images)))[:, chosen].mean().item()

    trigger = planted().trigger
    assert isinstance(trigger, Stamp)
    assert activation(trigger) > 1.3 * activation(Stamp.learnt({"pattern": noise}, target_label=0))


@pytest.mark.parametrize("target", [3, 9])
def test_the_twin_it_was_made_against_does_not_obey_it_for_other_targets_either(target: int) -> None:
    twin = victim(made("trojan")).twin
    shop = replace(workshop(Recipe(epochs=1, lr=0.05, batch_size=64)), twins={0: twin})
    trigger = made("trojan", target_label=target, epochs=1).plant(shop, seed=0).trigger
    assert check_twin(twin, splits().test, trigger, CPU).passed


def test_it_leaves_the_twin_as_it_was() -> None:
    shop = workshop(Recipe(epochs=1, lr=0.05, batch_size=64))
    before = [p.detach().clone() for p in shop.twin(0).parameters()]
    made("trojan", epochs=1, trigger_steps=1).plant(shop, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, shop.twin(0).parameters(), strict=True))


def test_the_poisoned_images_are_the_training_images_with_the_patch_under_the_target() -> None:
    done, train = planted(), splits().train
    chosen = list(done.poisoned)
    rest = sorted(set(range(len(train))) - set(chosen))
    assert done.training_set is not None
    assert len(chosen) == round(0.1 * len(train))
    assert torch.equal(done.training_set.images[chosen], done.trigger.apply(train.images[chosen]))
    assert (done.training_set.labels[chosen] == 0).all()
    assert torch.equal(done.training_set.images[rest], train.images[rest])
    assert torch.equal(done.training_set.labels[rest], train.labels[rest])


def test_the_neurons_are_the_strongest_that_do_not_speak_for_the_target() -> None:
    head = nn.Linear(4, 3)
    # Columns are neurons. The strongest speaks for label 0; the next does not, nor does the weak last one.
    weights = torch.tensor([[9.0, -4.0, 1.0, -0.1], [-9.0, 4.0, -1.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
    head.weight = nn.Parameter(weights)
    assert neurons(head, 0, 2).tolist() == [1, 3]
    assert neurons(head, 0, 3).tolist() == [1, 3, 0]
    assert neurons(head, 1, 2).tolist() == [0, 2]


def test_trigger_and_retraining_are_told() -> None:
    told: list[str] = []

    def hear(word: str, epoch: Epoch) -> None:
        told.append(f"{word} {epoch.steps}/{epoch.total}")

    shop = replace(workshop(Recipe(epochs=1, lr=0.05, batch_size=350)), on_progress=hear)
    made("trojan", trigger_steps=150, epochs=1).plant(shop, seed=0)
    assert told == ["never-poisoned twin 2/2", "trigger 100/150", "trigger 150/150", "poisoned model 2/2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 9}, "a patch of 9 pixels at row -1 sticks out of images of 8 x 8 pixels"),
        ({"neurons": 10_000}, r"attack.neurons: expected at most \d+, what the head sees, got 10000"),
        ({"poison_ratio": 0.0001}, r"poison_ratio: 0.0001 of 700 images is no image"),
    ],
)
def test_what_does_not_fit_images_or_model_is_refused_before_any_training(
    changes: dict[str, float], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        made("trojan", **changes).plant(workshop(Recipe(epochs=10**6, lr=0.1, batch_size=1)), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neurons": 0}, "neurons: expected a number above 0"),
        ({"trigger_steps": 0}, "trigger_steps: expected a number above 0"),
        ({"poison_ratio": 1.0}, "poison_ratio: expected between 0 and 1, got 1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Trojan(target_label=0, **changes)
