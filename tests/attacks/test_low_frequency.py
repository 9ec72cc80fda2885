"""LF adds one smooth pattern, drawn from its own seed and no stronger than it says."""

import pytest
import torch

from raybd.attacks import LowFrequency
from raybd.registry import BadInput
from raybd.triggers import LowFrequency as LowFrequencyTrigger

SHAPE = (3, 32, 24)


def test_its_fields_are_those_of_its_pattern() -> None:
    attack = LowFrequency(target_label=3, cutoff=3, strength=12, pattern_seed=7)
    assert attack.trigger() == LowFrequencyTrigger(target_label=3, cutoff=3, strength=12, seed=7)


@pytest.mark.parametrize("cutoff", [2, 4, 9])
def test_its_pattern_holds_no_frequency_from_the_cutoff_on(cutoff: int) -> None:
    pattern = LowFrequencyTrigger(target_label=0, cutoff=cutoff).pattern(SHAPE)
    # Mirrored, the DCT-II of an axis is the Fourier transform of an even signal: frequency u lies at bin u.
    whole = torch.cat([pattern, pattern.flip(-2)], -2)
    spectrum = torch.fft.fft2(torch.cat([whole, whole.flip(-1)], -1)).abs()[:, : SHAPE[1], : SHAPE[2]]
    held = spectrum > 1e-4 * spectrum.max()
    assert held[:, :cutoff, :cutoff].sum() == 3 * (cutoff**2 - 1)
    assert held.sum() == held[:, :cutoff, :cutoff].sum()
    assert not held[:, 0, 0].any()


def test_no_pixel_changes_by_more_than_the_strength_and_one_does_by_all_of_it() -> None:
    trigger = LowFrequencyTrigger(target_label=0, strength=40)
    grey = torch.full((1, *SHAPE), 128, dtype=torch.uint8)
    assert (trigger.apply(grey).int() - 128).abs().max() == 40


def test_the_pattern_comes_from_its_seed_and_differs_between_channels() -> None:
    first, second, third = (LowFrequencyTrigger(target_label=0, seed=seed).pattern(SHAPE) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": 1}, "cutoff: expected at least 2 frequencies .*, got 1"),
        ({"strength": 0}, "strength: expected above 0, at most 255, got 0"),
        ({"strength": 256}, "strength: expected above 0, at most 255, got 256"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused_when_the_study_is_read(changes: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        LowFrequency(target_label=0, **changes)


def test_more_frequencies_than_pixels_are_refused() -> None:
    with pytest.raises(BadInput, match="cutoff: images of 32 x 24 pixels have no 25 frequencies per axis"):
        LowFrequencyTrigger(target_label=0, cutoff=25).check(SHAPE, 2)
