import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from raybd.registry import BadInput
from raybd.sources import TORCHVISION, load_npz, load_source


def arrays(n=6, shape=(4, 5, 3), classes=3, seed=0):
    stream = np.random.default_rng(seed)
    return stream.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n, dtype=np.int64) % classes


def save(path, **changes):
    (x, y), (u, v) = arrays(), arrays(4, seed=1)
    kept = {"x_train": x, "y_train": y, "x_test": u, "y_test": v} | changes
    np.savez(path, **{key: value for key, value in kept.items() if value is not None})
    return path


# digits


def test_digits_are_1797_grey_images_over_the_whole_range_of_bytes(tmp_path):
    source = load_source("digits", folder=tmp_path)
    assert source.test is None
    assert source.train.images.shape == (1797, 1, 8, 8)
    assert (source.train.images.min(), source.train.images.max(), source.train.classes) == (0, 255, 10)
    assert source.train.digest() == load_source("digits", folder=tmp_path).train.digest()


# npz


def test_npz_images_arrive_channels_first_in_the_order_of_the_file(tmp_path):
    x, y = arrays()
    save(tmp_path / "d.npz")
    source = load_source("d.npz", folder=tmp_path)
    assert source.name == "d.npz"
    assert np.array_equal(source.train.images.permute(0, 2, 3, 1).numpy(), x)
    assert source.train.labels.tolist() == y.tolist()
    assert len(source.test) == 4


def test_npz_takes_grey_images_small_integer_labels_and_no_test_part(tmp_path):
    x, y = arrays(shape=(4, 5))
    save(tmp_path / "d.npz", x_train=x, y_train=y.astype(np.uint8), x_test=None, y_test=None)
    source = load_source("d.npz", folder=tmp_path)
    assert source.train.shape == (1, 4, 5)
    assert source.train.labels.dtype == torch.int64
    assert source.test is None


def test_classes_come_from_both_parts_unless_they_are_given(tmp_path):
    save(tmp_path / "d.npz", y_test=np.array([0, 1, 2, 6]))
    assert load_source("d.npz", folder=tmp_path).train.classes == 7
    assert load_source("d.npz", folder=tmp_path, classes=9).test.classes == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "d.npz: no key x_train; keys: x_test, y_test, y_train"),
        ({"y_train": None}, "d.npz: no key y_train"),
        ({"y_test": None}, "d.npz: no key y_test"),
        ({"x_train": np.zeros((6, 4, 5, 3))}, "x_train: expected uint8 pixels 0..255, got float64"),
        (
            {"x_train": np.zeros((6, 3, 4, 5), np.uint8)},
            r"x_train: expected .*, got \(6, 3, 4, 5\).*channels",
        ),
        ({"x_test": np.zeros((4, 5, 5, 3), np.uint8)}, "y_test: images are .3, 5, 5.*train are .3, 4, 5"),
        (
            {"y_train": np.zeros(5, int)},
            r"y_train: expected integers \(6,\), one per image, got int64 \(5,\)",
        ),
        ({"y_train": np.zeros(6)}, "y_train: expected integers .* got float64"),
        ({"y_train": np.array([0, 1, 2, 3, -1, 0])}, "y_train: labels: .* got -1 at index 4"),
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8), "y_train": np.zeros(0, int)}, "holds no images"),
    ],
)
def test_an_npz_that_cannot_be_used_is_refused_by_file_and_key(tmp_path, changes, message):
    save(tmp_path / "d.npz", **changes)
    with pytest.raises(BadInput, match=message):
        load_source("d.npz", folder=tmp_path)


def test_labels_outside_the_given_classes_are_refused_by_file_and_key(tmp_path):
    save(tmp_path / "d.npz")
    with pytest.raises(BadInput, match=r"d.npz: y_train: labels: expected 0..1 .*, got 2 at index 2"):
        load_source("d.npz", folder=tmp_path, classes=2)


class Armed:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_pickled_objects_are_refused_and_never_opened(tmp_path):
    mark = tmp_path / "opened"
    objects = np.array([Armed(mark)] * 6, dtype=object)
    save(tmp_path / "d.npz", x_train=objects)
    with pytest.raises(BadInput, match=r"d.npz: .*x_train.*pickled, which raybd does not open"):
        load_source("d.npz", folder=tmp_path)
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Armed(mark)))
    with pytest.raises(BadInput, match=r"p.npz: not readable as .npz"):
        load_source("p.npz", folder=tmp_path)
    assert not mark.exists()


def test_a_broken_or_missing_npz_is_named(tmp_path):
    save(tmp_path / "d.npz")
    content = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "flipped.npz").write_bytes(content[:200] + bytes(b ^ 255 for b in content[200:260]) + content[260:])
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("half.npz", "flipped.npz", "one.npz"):
        with pytest.raises(BadInput, match=f"{name}.*not readable as .npz"):
            load_source(name, folder=tmp_path)
    with pytest.raises(BadInput, match=r"none.npz: no such file"):
        load_source("none.npz", folder=tmp_path)


def test_one_part_of_an_npz_is_taken_by_preference(tmp_path):
    save(tmp_path / "d.npz")
    assert len(load_npz(tmp_path / "d.npz", prefer=("test", "train"))) == 4
    assert len(load_npz(tmp_path / "d.npz", prefer=("train", "test"))) == 6
    save(tmp_path / "t.npz", x_test=None, y_test=None)
    assert len(load_npz(tmp_path / "t.npz", prefer=("test", "train"))) == 6
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(BadInput, match=r"other.npz: no key x_test or x_train; keys: images"):
        load_npz(tmp_path / "other.npz", prefer=("test", "train"))


def test_size_scales_every_image(tmp_path):
    save(tmp_path / "d.npz")
    source = load_source("d.npz", folder=tmp_path, size=8)
    assert source.train.shape == source.test.shape == (3, 8, 8)
    with pytest.raises(BadInput, match=r"data.size: expected at least 1 pixel, got 0"):
        load_source("d.npz", folder=tmp_path, size=0)


# image folders


def draw(path, value, size=(5, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)


def folder_of_images(root):
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                draw(root / part / name / f"{i}.png", 10 * label + i)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    folder_of_images(tmp_path / "pets")
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    source = load_source("pets", folder=tmp_path)
    assert source.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (source.train.shape, source.train.classes, len(source.test)) == ((3, 4, 5), 2, 4)


def test_a_flat_folder_is_all_training_images(tmp_path):
    folder_of_images(tmp_path / "pets")
    source = load_source("train", folder=tmp_path / "pets")
    assert len(source.train) == 6
    assert source.test is None


def test_grey_images_stay_grey_and_a_mixture_becomes_colour(tmp_path):
    draw(tmp_path / "grey" / "a" / "0.png", 7, mode="L")
    assert load_source("grey", folder=tmp_path).train.shape == (1, 4, 5)
    draw(tmp_path / "grey" / "b" / "0.png", 9, mode="RGBA")
    mixed = load_source("grey", folder=tmp_path).train
    assert mixed.images[:, :, 0, 0].tolist() == [[7, 7, 7], [9, 9, 9]]


def test_images_of_different_size_need_a_size(tmp_path):
    draw(tmp_path / "pets" / "cat" / "0.png", 1)
    draw(tmp_path / "pets" / "dog" / "1.png", 2, size=(9, 9))
    with pytest.raises(BadInput, match=r"dog.1.png is 9x9 pixels, cat.0.png is 4x5; give data.size"):
        load_source("pets", folder=tmp_path)
    assert load_source("pets", folder=tmp_path, size=6).train.shape == (3, 6, 6)


def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty: expected one folder per class, found none"):
        load_source("empty", folder=tmp_path)
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    with pytest.raises(BadInput, match="bare: no image in any class folder"):
        load_source("bare", folder=tmp_path)
    draw(tmp_path / "only" / "test" / "cat" / "0.png", 1)
    with pytest.raises(BadInput, match="only: has a folder test but no folder train"):
        load_source("only", folder=tmp_path)
    folder_of_images(tmp_path / "pets")
    draw(tmp_path / "pets" / "test" / "emu" / "0.png", 1)
    with pytest.raises(BadInput, match="emu: no class of that name among the training images"):
        load_source("pets", folder=tmp_path)


def test_a_file_that_is_no_image_or_has_16_bits_is_refused_by_name(tmp_path):
    draw(tmp_path / "pets" / "cat" / "0.png", 1)
    broken = tmp_path / "pets" / "cat" / "1.png"
    broken.write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"1.png: not readable as an image"):
        load_source("pets", folder=tmp_path)
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(broken)
    with pytest.raises(BadInput, match=r"1.png: expected 8 bits per channel, got Pillow mode I;16"):
        load_source("pets", folder=tmp_path)


# torchvision


def write_idx(path, values):
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + values.tobytes())


def fashion_mnist(root):
    raw = root / "FashionMNIST" / "raw"
    x, y = arrays(12, (28, 28), 10)
    for word, n in (("train", 12), ("t10k", 5)):
        write_idx(raw / f"{word}-images-idx3-ubyte", x[:n])
        write_idx(raw / f"{word}-labels-idx1-ubyte", y[:n].astype(np.uint8))
    return x, y


def test_a_torchvision_set_is_read_from_its_root_with_both_parts(tmp_path):
    x, y = fashion_mnist(tmp_path / "data")
    source = load_source("FashionMNIST", root=tmp_path / "data", folder=tmp_path)
    assert np.array_equal(source.train.images[:, 0].numpy(), x)
    assert source.train.labels.tolist() == y.tolist()
    assert (len(source.test), source.test.classes, source.name) == (5, 10, "FashionMNIST")


def test_a_relative_root_counts_from_the_study_folder(tmp_path):
    from pathlib import Path

    fashion_mnist(tmp_path / "data")
    assert len(load_source("FashionMNIST", root=Path("data"), folder=tmp_path).train) == 12


def svhn(root):
    from scipy.io import savemat

    root.mkdir()
    for part in ("train", "test"):
        x, y = arrays(10, (32, 32, 3), 10)
        savemat(root / f"{part}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y)[:, None]})
    return x, y


def test_a_set_with_split_instead_of_train_is_read_too(tmp_path, monkeypatch):
    from torchvision import datasets

    x, y = svhn(tmp_path / "svhn")
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)  # ours is not the published file
    source = load_source("SVHN", root=tmp_path / "svhn", folder=tmp_path)
    assert np.array_equal(source.train.images.permute(0, 2, 3, 1).numpy(), x)
    assert source.train.labels.tolist() == y.tolist()
    assert len(source.test) == 10


def gtsrb(root, sizes):
    train = root / "gtsrb" / "GTSRB" / "Training"
    for label in range(2):
        for i, size in enumerate(sizes):
            draw(train / f"{label:05d}" / f"{i}.ppm", label, size=(size, size))
    images = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    draw(images / "0.ppm", 1, size=(sizes[0], sizes[0]))
    (root / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n0.ppm;1\n")


def test_a_torchvision_set_of_images_of_different_size_needs_a_size(tmp_path):
    gtsrb(tmp_path, (9, 12))
    with pytest.raises(BadInput, match=r"GTSRB.*image 1 is 12x12 pixels, image 0 is 9x9; give data.size"):
        load_source("GTSRB", root=tmp_path, folder=tmp_path)
    source = load_source("GTSRB", root=tmp_path, folder=tmp_path, size=8, classes=43)
    assert (source.train.shape, len(source.train), len(source.test), source.train.classes) == (
        (3, 8, 8),
        4,
        1,
        43,
    )


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_a_missing_torchvision_set_says_what_was_looked_for_and_downloads_nothing(name, tmp_path, monkeypatch):
    import urllib.request

    def refuse(*args, **kwargs):
        pytest.fail("tried to download")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    root = tmp_path / "nothing"
    root.mkdir()
    with pytest.raises(BadInput, match=f"data.root: no complete copy of .*{name}.*looked for .*nothing"):
        load_source(name, root=root, folder=tmp_path)


def test_the_files_that_were_looked_for_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"looked for .*FashionMNIST.raw .gunzipped IDX files"):
        load_source("FashionMNIST", root=tmp_path, folder=tmp_path)
    with pytest.raises(BadInput, match=r"looked for .*cifar-10-batches-py"):
        load_source("CIFAR10", root=tmp_path, folder=tmp_path)


def test_a_torchvision_name_needs_a_root_unless_a_folder_of_that_name_is_there(tmp_path):
    with pytest.raises(BadInput, match=r"data.root: missing; 'GTSRB' is a torchvision set"):
        load_source("GTSRB", folder=tmp_path)
    draw(tmp_path / "GTSRB" / "stop" / "0.png", 1)
    assert len(load_source("GTSRB", folder=tmp_path).train) == 1


def test_a_root_is_refused_where_nothing_would_use_it(tmp_path):
    with pytest.raises(BadInput, match=r"data.root: only a torchvision set takes a root"):
        load_source("digits", root=tmp_path, folder=tmp_path)


def test_an_unknown_source_suggests_the_nearest(tmp_path):
    with pytest.raises(BadInput, match=r"data.source: 'CIFAR11' is neither .* did you mean 'CIFAR10'"):
        load_source("CIFAR11", folder=tmp_path)


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_every_listed_set_exists_and_takes_the_arguments_it_is_listed_with(name):
    import inspect

    from torchvision import datasets

    for arguments in TORCHVISION[name]:
        if arguments is not None:
            inspect.signature(getattr(datasets, name)).bind("root", **arguments)


def test_gunzipped_idx_files_are_all_that_fashion_mnist_needs(tmp_path):
    fashion_mnist(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    for file in list(raw.iterdir()):
        file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    with pytest.raises(BadInput, match="gunzipped IDX files"):
        load_source("FashionMNIST", root=tmp_path, folder=tmp_path)
