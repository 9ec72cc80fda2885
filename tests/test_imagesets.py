import pytest
import torch

from raybd.imagesets import ImageSet, Source
from raybd.registry import BadInput


def image_set(labels=(0, 1, 2), classes=3, value=9):
    images = torch.full((len(labels), 1, 2, 2), value, dtype=torch.uint8)
    return ImageSet(images=images, labels=torch.tensor(labels, dtype=torch.int64), classes=classes)


def test_a_set_knows_its_length_and_the_shape_of_an_image():
    assert len(image_set()) == 3
    assert image_set().shape == (1, 2, 2)
    assert len(image_set(())) == 0


def test_a_subset_keeps_the_order_it_was_asked_for():
    assert image_set().subset([2, 0]).labels.tolist() == [2, 0]
    assert image_set().subset(torch.tensor([1])).labels.tolist() == [1]
    assert len(image_set().subset([])) == 0


@pytest.mark.parametrize(("labels", "got"), [((0, 3), "got 3 at index 1"), ((-1, 0), "got -1 at index 0")])
def test_labels_outside_the_classes_are_refused(labels, got):
    with pytest.raises(BadInput, match=f"expected 0..2 .3 classes., {got}"):
        image_set(labels)


def checked_by_itself(**fields):
    """What a user's ImageSet(...) runs; under pytest beartype would get there first."""
    bare = object.__new__(ImageSet)
    for name, value in fields.items():
        object.__setattr__(bare, name, value)
    bare.__post_init__()


def test_images_that_are_not_bytes_are_refused():
    with pytest.raises(BadInput, match=r"images: expected uint8 \(n, c, h, w\), got float32 \(1, 1, 2, 2\)"):
        checked_by_itself(images=torch.zeros(1, 1, 2, 2), labels=torch.tensor([0]), classes=1)
    with pytest.raises(BadInput, match=r"got uint8 \(1, 2, 2\)"):
        checked_by_itself(images=torch.zeros(1, 2, 2, dtype=torch.uint8), labels=torch.tensor([0]), classes=1)


def test_labels_of_another_length_or_type_are_refused():
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    for labels in (torch.tensor([0]), torch.tensor([0, 0], dtype=torch.int32)):
        with pytest.raises(BadInput, match=r"labels: expected int64 \(2,\)"):
            checked_by_itself(images=images, labels=labels, classes=1)


def test_the_digest_changes_with_pixels_labels_shape_and_classes_and_with_nothing_else():
    plain = image_set().digest()
    assert plain == image_set().digest()
    reshaped = ImageSet(images=image_set().images.reshape(3, 1, 1, 4), labels=image_set().labels, classes=3)
    others = [image_set(value=8), image_set((0, 2, 1)), image_set(classes=4), reshaped]
    assert len({plain, *(other.digest() for other in others)}) == 5


def test_a_source_without_a_test_part_says_so():
    with pytest.raises(BadInput, match="mine has no test part"):
        Source(train=image_set(), test=None, name="mine").part("test")
