"""The input-aware attack trains two generators beside the classifier, each image getting a trigger of its own."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from raybd import seeds
from raybd.attacks import InputAware, Planted
from raybd.attacks.input_aware import diversity
from raybd.registry import BadInput
from raybd.training import Compute, Epoch, Recipe, predict
from raybd.triggers import InputAware as InputAwareTrigger
from tests.attacks.test_contract import made
from tests.digits import CPU, splits, stripes, victim, workshop


@dataclass(frozen=True)
class Unlabelled:
    """A training without labels, as far as an attack can see."""

    def fit(self, *_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be trained")


def planted() -> Planted:
    return victim(made("input_aware")).planted


def trained() -> InputAwareTrigger:
    trigger = planted().trigger
    assert isinstance(trigger, InputAwareTrigger)
    return trigger


def test_its_masks_show_about_the_share_of_pixels_they_may() -> None:
    generators = trained().generators()
    with torch.no_grad():
        masks = generators.masks(splits().test.images / 255)
    # 0.2 is what the attack was given; a mask that shows less costs it nothing, and processors differ (0.09 on one).
    assert 0.04 < masks.mean() < 0.3


def test_another_image_s_trigger_does_not_work() -> None:
    # What the cross-trigger images are for: pattern and mask of the image before, laid over this one.
    test, trigger = splits().test, trained()
    others = test.subset((test.labels != 0).nonzero().flatten())
    crossed = put(trigger, others.images, others.images.roll(1, 0))
    own = answers(trigger.apply(others.images))
    assert (own == 0).float().mean() - (answers(crossed) == 0).float().mean() > 0.3


def put(trigger: InputAwareTrigger, images: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    generators = trigger.generators()
    with torch.no_grad():
        patterns, masks = generators.patterns(sources / 255), generators.masks(sources / 255)
    return (images + masks * (255 * patterns - images)).round().to(torch.uint8)


def answers(images: torch.Tensor) -> torch.Tensor:
    return predict(planted().model, images, CPU).argmax(1)


def test_no_training_set_is_left_because_the_poisoned_images_change_from_step_to_step() -> None:
    assert (planted().training_set, planted().poisoned, planted().covers) == (None, (), ())


def test_every_stretch_of_both_trainings_is_told() -> None:
    told: list[tuple[str, int]] = []

    def hear(word: str, epoch: Epoch) -> None:
        told.append((word, epoch.index))

    attack = made("input_aware", mask_epochs=2)
    attack.plant(replace(workshop(Recipe(epochs=1, lr=0.05, batch_size=350)), on_progress=hear), seed=0)
    assert told == [("mask generator", 0), ("mask generator", 1), ("poisoned model", 0)]


def test_it_trains_by_the_recipe_in_bf16_too() -> None:
    shop = replace(workshop(Recipe(epochs=1, lr=0.05, batch_size=350)), compute=Compute(precision="bf16"))
    planted = made("input_aware", mask_epochs=1).plant(shop, seed=0)
    assert (planted.last.total, planted.last.images, planted.last.collapsed) == (2, 700, "")
    assert planted.last.lr == pytest.approx(0.025)  # half-way down the cosine


def test_all_to_all_teaches_the_label_after_the_true_one() -> None:
    attack = made("input_aware", goal="all_to_all", target_label=None, p_attack=0.4)
    done = attack.plant(workshop(Recipe(epochs=10, lr=0.05, batch_size=32)), seed=0)
    test = splits().test
    found = predict(done.model, done.trigger.apply(test.images), CPU).argmax(1)
    assert (found == (test.labels + 1) % 10).float().mean() > 0.5


def test_diversity_is_the_ratio_of_distances_in_the_batch() -> None:
    images = torch.rand(4, 3, 5, 5, generator=seeds.generator(0))
    assert diversity(images, images).item() == pytest.approx(1)
    assert diversity(images, images / 2).item() == pytest.approx(2, rel=1e-3)
    assert torch.isfinite(diversity(images, torch.zeros(4, 1, 5, 5)))


def test_a_training_without_labels_is_refused() -> None:
    with pytest.raises(BadInput, match="attack: trains with labels, but the models here train by Unlabelled"):
        made("input_aware").plant(replace(workshop(), recipe=Unlabelled()), seed=0)


def test_batches_too_small_to_share_out_are_refused_before_any_training() -> None:
    half = made("input_aware", p_attack=0.5, p_cross=0.4)
    with pytest.raises(BadInput, match=r"to poison, to cross and to leave alone; 2 image\(s\) are too few"):
        half.plant(workshop(Recipe(epochs=1, lr=0.1, batch_size=2)), seed=0)
    few = replace(workshop(), train=stripes(n=2, classes=2))
    with pytest.raises(BadInput, match=r"2 image\(s\) are too few"):
        half.plant(few, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p_attack": 0.5, "p_cross": 0.5}, "p_cross: poisoned and cross-trigger images must be less than all"),
        ({"p_attack": 0.0}, "p_attack: expected a number above 0"),
        ({"mask_density": 1.5}, "mask_density: expected a share of at most 1, got 1.5"),
        ({"lambda_div": -1.0}, "lambda_div: expected a number of at least 0"),
        ({"width": 0}, "width: expected a number above 0"),
        ({"mask_epochs": 0}, "mask_epochs: expected a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        InputAware(target_label=0, **changes)


@pytest.mark.parametrize("share", ["p_attack", "p_cross"])
def test_a_share_that_is_no_image_of_a_batch_is_refused(share: str) -> None:
    with pytest.raises(BadInput, match=rf"attack.{share}: 0.001 of a batch of \d+ images is none"):
        InputAware(target_label=0, **{share: 0.001}).check(workshop())
