"""WaNet warps its images; others, warped with noise, keep their label."""

import pytest
import torch
from torch import Tensor

from raybd.attacks import WaNet
from raybd.registry import BadInput
from raybd.triggers import Warp
from tests.digits import splits, workshop


def ramp(height: int = 12, width: int = 16, step: int = 10) -> Tensor:
    """One image whose pixel value says its column."""
    return (torch.arange(width) * step).to(torch.uint8).expand(1, 1, height, width).contiguous()


def test_its_fields_are_those_of_its_warp() -> None:
    attack = WaNet(target_label=3, k=5, s=0.7, grid_rescale=0.98, warp_seed=7)
    assert attack.trigger() == Warp(target_label=3, k=5, s=0.7, grid_rescale=0.98, seed=7)


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_the_field_moves_pixels_by_half_of_s_and_is_smooth(s: float) -> None:
    size = 32
    still = torch.linspace(-1, 1, size)
    moved = (Warp(target_label=0, s=s).grid(size, size)[0, :, :, 0] - still) * size  # twice the pixels
    inside = moved[4:-4, 4:-4]  # at the edge it is clamped
    assert 0.4 * s < inside.abs().mean() < 1.6 * s
    assert inside.diff(dim=0).abs().max() < 0.5 * s
    assert inside.diff(dim=1).abs().max() < 0.5 * s


def test_pixels_come_from_where_the_field_says() -> None:
    trigger = Warp(target_label=0, s=2)
    done = trigger.apply(ramp())[0, 0]
    columns = (trigger.grid(12, 16)[0, :, :, 0] + 1) / 2 * 15
    assert (done.float() - 10 * columns).abs().max() <= 0.5 + 1e-3


def test_the_warp_comes_from_its_seed() -> None:
    first, second, third = (Warp(target_label=0, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.apply(ramp()), second.apply(ramp()))
    assert not torch.equal(first.apply(ramp()), third.apply(ramp()))


def test_two_warps_have_two_digests_though_plain_images_show_neither() -> None:
    digests = {Warp(target_label=0, seed=seed, s=s).digest((1, 8, 8)) for seed in (0, 1) for s in (0.5, 1)}
    assert len(digests) == 4


def test_the_noise_is_another_for_each_image_and_at_most_half_a_pixel() -> None:
    trigger = Warp(target_label=0, s=1)
    images = ramp().expand(50, -1, -1, -1)
    done = trigger.apply_noisily(images, torch.Generator().manual_seed(0))
    off = (done.float() - trigger.apply(images).float()).abs() / 10  # in pixels
    assert len(done.unique(dim=0)) == 50
    assert off.max() <= 0.5 * 15 / 16 + 0.1
    assert off.max() > 0.3


def test_noise_images_keep_their_label_and_show_another_warp_than_the_triggers() -> None:
    attack, train = WaNet(target_label=0, poison_ratio=0.05, s=1), splits().train
    done = attack.poison(workshop(), seed=0)
    covers, chosen = list(done.covers), list(done.poisoned)
    assert len(covers) == 2 * len(chosen)
    assert torch.equal(done.training_set.labels[covers], train.labels[covers])
    assert torch.equal(done.training_set.images[chosen], attack.trigger().apply(train.images[chosen]))
    same = done.training_set.images[covers] == attack.trigger().apply(train.images[covers])
    assert not same.flatten(1).all(1).any()


def test_without_noise_images_it_has_no_covers() -> None:
    assert WaNet(target_label=0, cover_ratio=0).poison(workshop(), seed=0).covers == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 1}, "k: expected at least 2 shifts per axis, got 1"),
        ({"s": 0}, "s: expected above 0, got 0"),
        ({"grid_rescale": -1}, "grid_rescale: expected above 0, got -1"),
        ({"cover_ratio": -1}, "cover samples: .* got 0.1 and -0.1"),
        ({"poison_ratio": 0.4}, "cover samples: poisoned and cover images must be less than all"),
    ],
)
def test_a_warp_that_makes_no_sense_is_refused_when_the_study_is_read(changes: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        WaNet(target_label=0, **changes)


def test_more_shifts_than_pixels_are_refused() -> None:
    with pytest.raises(BadInput, match=r"trigger.k: 4 shifts per axis do not fit images of 3 x 8 pixels"):
        Warp(target_label=0).check((1, 3, 8), 2)
