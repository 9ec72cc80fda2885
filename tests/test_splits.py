import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raybd.imagesets import ImageSet, Source
from raybd.registry import BadInput
from raybd.splits import Part, SplitPlan, split, stratified_order

NAMES = ("train", "clean_set", "selection", "test")


def numbered(labels, start=0, classes=None):
    """A set in which every image is different, 1x2x2 pixels that spell its number."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    numbers = torch.arange(start, start + len(labels))
    images = torch.stack([(numbers >> shift) & 255 for shift in (0, 8, 16, 24)], dim=1).to(torch.uint8)
    return ImageSet(images=images.reshape(-1, 1, 2, 2), labels=labels, classes=classes or int(labels.max()) + 1)


def source(train=100, test=60, classes=4):
    second = numbered(torch.arange(test) % classes, start=10**6) if test else None
    return Source(train=numbered(torch.arange(train) % classes), test=second, name="numbers")


def plan(clean=("train", 40), selection=("test", 20), test=None, members=None):
    def part(pair):
        return pair and Part(origin=pair[0], size=pair[1])

    return SplitPlan(clean_set=part(clean), selection=part(selection), test=part(test), members=part(members))


def digests(splits):
    return {name: getattr(splits, name).digest() for name in NAMES}


def pixels(images):
    return {bytes(image.flatten().tolist()) for image in images.images}


def save(path, images, name="test"):
    arrays = {f"x_{name}": images.images.permute(0, 2, 3, 1).numpy(), f"y_{name}": images.labels.numpy()}
    np.savez(path, **arrays)


label_lists = st.lists(st.integers(0, 4), min_size=12, max_size=120)


# what a split is


def test_the_rest_of_train_and_test_goes_to_train_and_test():
    splits = split(source(), plan(), seed=0)
    assert [len(getattr(splits, name)) for name in NAMES] == [60, 40, 20, 40]
    assert splits.members is None
    assert splits.warnings == ()


@settings(deadline=None, max_examples=60)
@given(label_lists, st.integers(0, 99), st.data())
def test_splits_of_one_part_are_disjoint_and_miss_nothing(labels, seed, data):
    labels = [0, 1] * 20 + labels  # so that no draw of 8 can miss all classes but one
    clean = data.draw(st.integers(8, len(labels) - 3))
    selection = data.draw(st.integers(1, len(labels) - clean - 2))
    whole = Source(train=numbered(labels, classes=5), test=None, name="numbers")
    splits = split(whole, plan(("train", clean), ("train", selection), ("train", 1)), seed=seed)
    sets = [pixels(getattr(splits, name)) for name in NAMES]
    assert sum(map(len, sets)) == len(set.union(*sets)) == len(labels)
    assert sorted(i for name in NAMES for i in splits.indices[name]) == list(range(len(labels)))


@settings(deadline=None, max_examples=60)
@given(label_lists, st.integers(0, 99))
def test_each_class_gets_its_share_to_within_one_image(labels, seed):
    labels = [*labels, 0, 0, 0, 1, 1, 1]
    whole = Source(train=numbered(labels, classes=5), test=numbered(labels, 500, 5), name="numbers")
    size = len(labels) // 2
    splits = split(whole, plan(("train", size), ("test", size)), seed=seed)
    counts = torch.bincount(torch.tensor(labels), minlength=5)
    for drawn in (splits.clean_set, splits.selection):
        off = torch.bincount(drawn.labels, minlength=5) - counts * size / len(labels)
        assert off.abs().max() < 1


def test_indices_say_where_each_image_came_from():
    whole = source()
    splits = split(whole, plan(members=("train", None)), seed=0)
    for name, part in (("train", "train"), ("clean_set", "train"), ("selection", "test"), ("test", "test")):
        assert torch.equal(whole.part(part).images[splits.indices[name]], getattr(splits, name).images)
        assert splits.indices[name] == sorted(splits.indices[name])
    assert splits.indices["members"] == splits.indices["train"]


def test_the_same_seed_gives_the_same_splits_and_another_seed_gives_others():
    first, again, other = (split(source(), plan(), seed=seed) for seed in (3, 3, 4))
    assert digests(first) == digests(again)
    assert all(digests(first)[name] != digests(other)[name] for name in NAMES)


def test_a_size_can_be_left_out_to_take_what_the_others_leave():
    splits = split(source(), plan(("train", None), ("test", None), ("test", 25)), seed=0, trained_on="unknown")
    assert [len(getattr(splits, name)) for name in NAMES] == [0, 100, 35, 25]
    shared = split(source(), plan(("train", None), ("train", 10)), seed=0, trained_on="unknown")
    assert [len(getattr(shared, name)) for name in NAMES] == [0, 90, 10, 60]


def test_test_is_carved_from_train_where_the_source_has_no_test_part():
    splits = split(source(test=0), plan(selection=("train", 20), test=("train", 30)), seed=0)
    assert [len(getattr(splits, name)) for name in NAMES] == [10, 40, 20, 30]


def test_the_carved_test_split_does_not_depend_on_the_other_sizes():
    first = split(source(test=0), plan(("train", 20), ("train", 10), ("train", 30)), seed=0)
    other = split(source(test=0), plan(("train", 40), ("train", 20), ("train", 30)), seed=0)
    assert first.test.digest() == other.test.digest()


# members


def test_members_are_what_is_left_of_train():
    splits = split(source(), plan(selection=("train", 10), members=("train", None)), seed=0)
    assert pixels(splits.members) == pixels(splits.train)
    fewer = split(source(), plan(members=("train", 25)), seed=0)
    assert len(fewer.members) == 25
    assert pixels(fewer.members) < pixels(fewer.train)


def test_members_of_a_file_lose_what_is_in_the_clean_set(tmp_path):
    whole = source()
    save(tmp_path / "m.npz", whole.train, "train")
    splits = split(whole, plan(members=("m.npz", None)), seed=0, folder=tmp_path)
    assert len(splits.members) == 60
    assert not pixels(splits.members) & pixels(splits.clean_set)
    assert splits.warnings == ("40 members are also in the clean set and were left out",)
    assert torch.equal(whole.train.images[splits.indices["members"]], splits.members.images)


def test_members_that_are_also_non_members_are_told(tmp_path):
    save(tmp_path / "m.npz", source().test)
    splits = split(source(), plan(members=("m.npz", None)), seed=0, folder=tmp_path)
    assert splits.warnings == ("40 members are exact copies of test images, the non-members",)


def test_members_must_exist_apart_from_the_clean_set(tmp_path):
    with pytest.raises(BadInput, match=r"data.members: expected 1 to 60 images .*got 61"):
        split(source(), plan(members=("train", 61)), seed=0)
    with pytest.raises(BadInput, match=r"data.members: expected 1 to 0 images"):
        split(source(), plan(("train", None), members=("train", None)), seed=0, trained_on="unknown")
    whole = source()
    clean = split(whole, plan(), seed=0).clean_set
    save(tmp_path / "m.npz", clean)
    with pytest.raises(BadInput, match="every image is also in the clean set"):
        split(whole, plan(members=("m.npz", None)), seed=0, folder=tmp_path)
    with pytest.raises(BadInput, match=r"data.members.from: members are what the suspect was trained on"):
        split(source(), plan(members=("test", None)), seed=0)


# a file of its own


def test_selection_can_come_from_a_file_and_prefers_its_test_arrays(tmp_path):
    own = numbered([0, 1, 2, 3] * 5, start=5000)
    save(tmp_path / "own.npz", own)
    splits = split(source(), plan(selection=("own.npz", None)), seed=0, folder=tmp_path)
    assert splits.selection.digest() == own.digest()
    assert len(splits.test) == 60
    half = split(source(), plan(selection=("own.npz", 8)), seed=0, folder=tmp_path)
    assert half.selection.labels.bincount().tolist() == [2, 2, 2, 2]
    save(tmp_path / "train.npz", own, "train")
    again = split(source(), plan(selection=("train.npz", None)), seed=0, folder=tmp_path)
    assert again.selection.digest() == own.digest()


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    save(tmp_path / "own.npz", numbered([0, 1, 2, 3]))
    with pytest.raises(BadInput, match=r"data.selection.size: 5 > 4 images in .*own.npz"):
        split(source(), plan(selection=("own.npz", 5)), seed=0, folder=tmp_path)
    np.savez(tmp_path / "big.npz", x_test=np.zeros((2, 3, 3), np.uint8), y_test=np.array([0, 1]))
    with pytest.raises(BadInput, match=r"data.selection.from: .*big.npz: images are \(1, 3, 3\)"):
        split(source(), plan(selection=("big.npz", None)), seed=0, folder=tmp_path)
    save(tmp_path / "odd.npz", numbered([0, 9]))
    with pytest.raises(BadInput, match=r"odd.npz: y_test: labels: expected 0..3 .*got 9"):
        split(source(), plan(selection=("odd.npz", None)), seed=0, folder=tmp_path)
    with pytest.raises(BadInput, match=r"none.npz: no such file"):
        split(source(), plan(selection=("none.npz", None)), seed=0, folder=tmp_path)


def test_a_file_that_shares_images_with_test_or_clean_set_overlaps(tmp_path):
    save(tmp_path / "t.npz", source().test)
    with pytest.raises(BadInput, match=r"data.selection.from: overlapping splits: .* images of .*t.npz"):
        split(source(), plan(selection=("t.npz", None)), seed=0, folder=tmp_path)
    clean = split(source(), plan(), seed=0).clean_set
    save(tmp_path / "c.npz", clean.subset([3]))
    with pytest.raises(BadInput, match=r"data.selection.from: overlapping splits: 1 of the 1 images of selection"):
        split(source(), plan(selection=("c.npz", None)), seed=0, folder=tmp_path)
    save(tmp_path / "s.npz", source().test, "train")
    with pytest.raises(BadInput, match=r"data.clean_set.from: overlapping splits"):
        split(source(), plan(clean=("s.npz", None)), seed=0, folder=tmp_path)


# warnings


def test_selection_or_test_from_train_is_a_warning_when_the_suspect_was_trained_before():
    whole = source(test=0)
    wanted = plan(selection=("train", 20), test=("train", 30))
    assert split(whole, wanted, seed=0).warnings == ()
    warnings = split(whole, wanted, seed=0, trained_on="unknown").warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "selection is cut from train",
        "test is cut from train",
    ]


def test_stray_copies_across_splits_of_one_source_are_counted_not_refused():
    train, test = numbered([0, 1] * 20), numbered([0, 1] * 10, 10**6)
    test.images[:3] = train.images[:3]
    splits = split(Source(train=train, test=test, name="n"), plan(("train", 39), ("test", 10)), seed=0)
    told = [int(warning.split()[0]) for warning in splits.warnings]
    assert sum(told) == 3
    assert all("are exact copies of images in" in warning for warning in splits.warnings)


# refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clean": ("train", 80), "selection": ("train", 30)},
            "clean_set 80 [+] selection 30 > train 100: the splits",
        ),
        ({"clean": ("train", 101)}, "data: clean_set 101 > train 100$"),
        ({"selection": ("test", 61)}, "data: selection 61 > test 60$"),
        (
            {"selection": ("test", 40), "test": ("test", 21)},
            "test 21 [+] selection 40 > test 60: the splits would",
        ),
        ({"clean": ("train", 0)}, "data.clean_set.size: expected at least 1 image, got 0"),
        ({"selection": ("test", 0)}, "data.selection.size: expected at least 1 image, got 0"),
        ({"selection": ("test", -2)}, "data.selection.size: expected at least 1 image, got -2"),
        ({"selection": ("test", 60)}, "data: selection 60 = test 60: test would be empty"),
        ({"selection": ("test", None)}, "data.selection.size: missing; test and selection cannot both"),
        (
            {"clean": ("train", None), "selection": ("train", None)},
            "data.selection.size: missing; clean_set and sel",
        ),
        ({"clean": ("train", 1)}, "data.clean_set: all 1 images have label"),
        ({"clean": ("train", 100)}, "nothing is left to train the suspect on"),
        (
            {"selection": ("trian", 9)},
            "data.selection.from: expected 'train', 'test' or an .npz file, got 'trian'",
        ),
        ({"test": ("train", 9)}, "data.test.from: numbers has a test part, so expected 'test', got 'train'"),
    ],
)
def test_a_plan_that_cannot_be_met_is_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        split(source(), plan(**changes), seed=0)


def test_a_clean_set_of_one_class_is_refused():
    lone = Source(train=numbered([2] * 50, classes=4), test=source().test, name="lone")
    with pytest.raises(BadInput, match=r"data.clean_set: all 40 images have label 2"):
        split(lone, plan(), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": ("train", 9)}, "data.test: missing; numbers has no test part"),
        (
            {"selection": ("train", 9), "test": ("train", None)},
            "data.test: numbers has no test part: expected",
        ),
        ({"selection": ("test", 9), "test": ("train", 9)}, "data.selection.from: numbers has no test part"),
        ({"selection": ("train", 9), "test": ("test", 9)}, "data.test.from: numbers has no test part"),
    ],
)
def test_a_source_without_a_test_part_needs_a_test_split_from_train(changes, message):
    with pytest.raises(BadInput, match=message):
        split(source(test=0), plan(**changes), seed=0)


# the order behind nested subsets


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=150), st.integers(0, 99))
def test_every_prefix_of_the_order_holds_each_class_to_within_one_image_of_its_share(labels, seed):
    labels = torch.tensor(labels)
    order = stratified_order(labels, seed=seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    hits = torch.nn.functional.one_hot(labels[order], 7).cumsum(0)
    shares = torch.arange(1, len(labels) + 1)[:, None] * torch.bincount(labels, minlength=7) / len(labels)
    assert (hits - shares).abs().max() < 1


def test_the_order_is_random_within_each_class_and_repeats_with_its_seed():
    labels = torch.arange(200) % 2
    first, again, other = (stratified_order(labels, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[labels[first] == 0].tolist() != sorted(first[labels[first] == 0].tolist())
