"""Label-consistent perturbs images of the target class against the twin, then puts the patch into four corners."""

from dataclasses import replace

import pytest
import torch

from raybd.attacks import ATTACKS, LabelConsistent
from raybd.evaluation.metrics import answers
from raybd.registry import BadInput
from raybd.scenarios import Standalone
from raybd.training import Recipe, predict
from raybd.triggers import Corners
from tests.digits import CPU, splits, victim, workshop

ATTACK = LabelConsistent(target_label=0, size=1, epsilon=48, step_size=8)
TRAIN = splits().train
ZEROS = TRAIN.subset((TRAIN.labels == 0).nonzero().flatten())


def test_its_fields_are_those_of_its_corners() -> None:
    attack = LabelConsistent(target_label=3, size=2, amplitude=32)
    assert attack.trigger() == Corners(target_label=3, size=2, amplitude=32)


def test_the_squares_are_checkered_mirror_each_other_and_leave_the_rest_alone() -> None:
    done = Corners(target_label=0, size=3, amplitude=100).apply(torch.full((1, 2, 9, 8), 128, dtype=torch.uint8))
    assert done[0, 0, :3, :3].tolist() == [[228, 28, 228], [28, 228, 28], [228, 28, 228]]
    assert torch.equal(done, done.flip(-1))
    assert torch.equal(done, done.flip(-2))
    assert int((done != 128).sum()) == 2 * 4 * 9


@pytest.mark.parametrize("epsilon", [1, 8, 48])
def test_no_pixel_moves_by_more_than_epsilon(epsilon: int) -> None:
    attack, twin = replace(ATTACK, epsilon=epsilon), victim().twin
    done = attack.perturbed(twin, ZEROS.images, ZEROS.labels, CPU, torch.Generator().manual_seed(0))
    assert (done.int() - ZEROS.images.int()).abs().max() == epsilon


def test_the_twin_misses_the_label_of_perturbed_images_and_not_of_shaken_ones() -> None:
    twin, stream = victim().twin, torch.Generator().manual_seed(0)
    done = ATTACK.perturbed(twin, ZEROS.images, ZEROS.labels, CPU, stream)
    signs = torch.randint(0, 2, done.shape, generator=stream) * 2 - 1
    shaken = (ZEROS.images.int() + 48 * signs).clamp(0, 255).to(torch.uint8)
    assert (answers(predict(twin, done, CPU)) == 0).float().mean() < 0.1
    assert (answers(predict(twin, shaken, CPU)) == 0).float().mean() > 0.5


def test_a_victim_was_trained_on_images_perturbed_and_patched() -> None:
    planted = Standalone().build(ATTACK, workshop(Recipe(epochs=2, lr=0.05, batch_size=32)), seed=0).planted
    assert planted.training_set is not None
    chosen = list(planted.poisoned)
    shown, patched = planted.training_set.images[chosen], ATTACK.trigger().apply(TRAIN.images[chosen])
    middle = (shown.int() - patched.int()).abs()[..., 1:-1, 1:-1]
    assert (middle.flatten(1).amax(1) == 48).all()
    assert torch.equal(ATTACK.trigger().apply(shown), shown)


def test_the_twin_it_starts_from_is_the_victims_and_is_trained_once() -> None:
    words: list[str] = []
    brief = replace(
        workshop(Recipe(epochs=1, lr=0.05, batch_size=64)), on_progress=lambda word, epoch: words.append(word)
    )
    Standalone().build(ATTACK, brief, seed=0)
    assert words == ["never-poisoned twin", "poisoned model"]


def test_it_says_that_its_recipe_does_not_give_its_images_back() -> None:
    assert LabelConsistent.makes_images
    assert not ATTACKS["badnets"].makes_images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0}, "epsilon: expected 1 to 255, got 0"),
        ({"pgd_steps": 0}, "pgd_steps: expected a number above 0, got 0"),
        ({"step_size": 0}, "step_size: expected a number above 0, got 0"),
        ({"size": 0}, "size: expected at least 1 pixel, got 0"),
        ({"amplitude": 256}, "amplitude: expected 1 to 255, got 256"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_when_the_study_is_read(changes: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        LabelConsistent(target_label=0, **changes)


def test_squares_that_would_overlap_are_refused() -> None:
    with pytest.raises(BadInput, match=r"trigger.size: four squares of 3 pixels do not fit images of 5 x 8 pixels"):
        Corners(target_label=0).check((1, 5, 8), 2)
