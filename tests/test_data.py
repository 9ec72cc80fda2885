import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raybd.data import Augment, ImageSet, clean_subset
from raybd.registry import BadInput, as_json, revive


def numbered(labels):
    """A set in which the pixel value of an image is its number."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    images = torch.arange(len(labels)).to(torch.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(images=images, labels=labels, classes=8)


def members(images):
    return set(images.images.flatten().tolist())


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=150),
    st.integers(0, 9),
    st.floats(0.001, 1),
    st.floats(0.001, 1),
)
def test_a_smaller_clean_fraction_lies_within_a_larger_one(labels, seed, one, other):
    small, large = (clean_subset(numbered(labels), f, seed=seed) for f in sorted((one, other)))
    assert members(small) <= members(large)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=150), st.integers(0, 9), st.floats(0.001, 1))
def test_a_clean_fraction_has_its_size_and_every_class_there_is_room_for(labels, seed, fraction):
    subset = clean_subset(numbered(labels), fraction, seed=seed)
    assert len(subset) == max(1, int(fraction * len(labels) + 0.5))
    assert len(subset.labels.unique()) >= min(len(subset), len(set(labels)))


def test_a_clean_fraction_keeps_the_shares_of_the_classes():
    subset = clean_subset(numbered([0] * 120 + [1] * 60 + [2] * 20), 0.25, seed=0)
    assert subset.labels.bincount().tolist() == [30, 15, 5]


def test_a_rare_class_is_kept():
    labels = [0] * 150 + [1]
    for seed in range(20):
        assert clean_subset(numbered(labels), 0.05, seed=seed).labels.bincount().tolist() == [7, 1]


def test_the_whole_clean_set_is_a_fraction_of_it():
    whole = numbered([0, 1, 2, 0, 1])
    assert clean_subset(whole, 1.0, seed=5).digest() == whole.digest()


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, float("nan")])
def test_a_clean_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(BadInput, match=r"clean_fraction: expected a number in \(0, 1\], got"):
        clean_subset(numbered([0, 1]), fraction, seed=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_the_images_themselves_and_draws_nothing():
    images, stream = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8), generator()
    assert torch.equal(Augment()(images, stream), images)
    assert torch.equal(stream.get_state(), generator().get_state())


def test_augmentation_repeats_with_its_generator_and_leaves_its_input_alone():
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator(1))
    before, augment = images.clone(), Augment(crop=2, flip=True)
    assert torch.equal(augment(images, generator()), augment(images, generator()))
    assert not torch.equal(augment(images, generator()), augment(images, generator(2)))
    assert torch.equal(images, before)


def test_mirroring_takes_about_half_of_the_images():
    images = torch.tensor([[0, 1]], dtype=torch.uint8).repeat(1000, 1, 1, 1)
    flipped = Augment(flip=True)(images, generator())[:, 0, 0, 0].float().mean()
    assert 0.45 < flipped < 0.55


def test_an_augmentation_is_read_from_and_written_to_plain_json():
    augment = Augment(crop=4, flip=True)
    assert revive(Augment, as_json(augment)) == augment


def test_a_negative_crop_is_refused():
    with pytest.raises(BadInput, match="crop: expected 0 pixels or more, got -1"):
        Augment(crop=-1)
