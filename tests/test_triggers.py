"""One contract for every trigger in the table, then what is special to each kind."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raybd.registry import BadInput, as_json, build, describe, revive
from raybd.triggers import (
    TRIGGERS,
    Additive,
    Blended,
    Corners,
    InputAware,
    LowFrequency,
    Patch,
    Sinusoid,
    Stamp,
    Trigger,
    Warp,
)
from tests.learned import input_aware, stamp, written

SHAPE = (3, 8, 10)


def images(n: int = 6, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def saved(path: Path, array: Any) -> Path:
    """An array as .npy, or as a picture."""
    if path.suffix == ".npy":
        np.save(path, np.asarray(array, dtype=np.float32))
    else:
        Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)
    return path


MAKERS: dict[str, Callable[[Path], Trigger]] = {
    "patch": lambda folder: Patch(target_label=1),
    "blended": lambda folder: Blended(target_label=1),
    "additive": lambda folder: Additive(
        target_label=1, pattern=saved(folder / "add.npy", np.random.default_rng(0).normal(0, 30, (8, 10)))
    ),
    "low_frequency": lambda folder: LowFrequency(target_label=1),
    "warp": lambda folder: Warp(target_label=1),
    "corners": lambda folder: Corners(target_label=1),
    "sinusoid": lambda folder: Sinusoid(target_label=1, frequency=3),
    "stamp": lambda folder: Stamp(target_label=1, weights=written(folder, stamp())),
    "input_aware": lambda folder: InputAware(target_label=1, weights=written(folder, input_aware())),
}


def test_every_kind_of_the_table_is_under_contract() -> None:
    assert MAKERS.keys() == TRIGGERS.keys()
    assert all(kind == cls.kind for kind, cls in TRIGGERS.items())


@pytest.mark.parametrize("kind", TRIGGERS)
class TestContract:
    @pytest.fixture
    def trigger(self, kind: str, tmp_path: Path) -> Trigger:
        return MAKERS[kind](tmp_path)

    def test_it_changes_every_image_and_keeps_type_and_shape(self, trigger: Trigger) -> None:
        clean = images()
        before = clean.clone()
        done = trigger.apply(clean)
        assert done.dtype == torch.uint8
        assert done.shape == clean.shape
        assert (done != clean).flatten(1).any(1).all()
        assert torch.equal(clean, before), "the input is not written to"

    def test_it_does_the_same_to_an_image_whatever_its_company(self, trigger: Trigger) -> None:
        clean = images()
        assert torch.equal(trigger.apply(clean)[2:3], trigger.apply(clean[2:3]))
        assert torch.equal(trigger.apply(clean), trigger.apply(clean))
        assert trigger.apply(clean[:0]).shape == (0, *SHAPE)

    def test_its_goal_is_the_target_for_every_label(self, trigger: Trigger) -> None:
        goals = trigger.goal_labels(torch.arange(5), 5)
        assert goals.tolist() == [1] * 5
        assert goals.dtype == torch.int64

    @pytest.mark.parametrize("label", [-1, 3, 99])
    def test_a_target_that_is_no_class_is_refused(self, kind: str, tmp_path: Path, label: int) -> None:
        trigger = revive(TRIGGERS[kind], as_json(MAKERS[kind](tmp_path)) | {"target_label": label})
        with pytest.raises(BadInput, match=f"trigger.target_label: expected 0 to 2, got {label}"):
            trigger.check(SHAPE, 3)

    def test_it_fits_the_images_it_is_for(self, trigger: Trigger) -> None:
        trigger.check(SHAPE, 2)

    def test_it_goes_to_yaml_and_back(self, trigger: Trigger) -> None:
        plain = describe(trigger)
        assert build(TRIGGERS, plain, where="trigger") == trigger
        with pytest.raises(BadInput, match="trigger: unknown key 'target'; did you mean 'target_label'"):
            build(TRIGGERS, plain | {"target": 1}, where="trigger")

    def test_its_digest_depends_on_what_it_does_and_wants(self, kind: str, tmp_path: Path) -> None:
        trigger = MAKERS[kind](tmp_path)
        other_goal = revive(TRIGGERS[kind], as_json(trigger) | {"target_label": 0})
        assert trigger.digest(SHAPE) == MAKERS[kind](tmp_path).digest(SHAPE)
        assert len({trigger.digest(SHAPE), other_goal.digest(SHAPE), Patch(target_label=1, size=2).digest(SHAPE)}) == 3

    def test_the_global_random_stream_is_left_alone(self, trigger: Trigger) -> None:
        before = torch.get_rng_state()
        trigger.apply(images())
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        (-1, -1, slice(5, 8), slice(7, 10)),
        (0, 0, slice(0, 3), slice(0, 3)),
        (-2, -8, slice(4, 7), slice(0, 3)),
        (5, 7, slice(5, 8), slice(7, 10)),
    ],
)
def test_a_patch_sits_where_it_says_and_touches_nothing_else(
    row: int, column: int, rows: slice, columns: slice
) -> None:
    trigger = Patch(target_label=0, size=3, row=row, column=column, value=77)
    trigger.check(SHAPE, 2)
    clean = images()
    done = trigger.apply(clean)
    assert (done[:, :, rows, columns] == 77).all()
    outside = torch.ones(SHAPE[1:], dtype=torch.bool)
    outside[rows, columns] = False
    assert torch.equal(done[:, :, outside], clean[:, :, outside])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 9}, "a patch of 9 pixels at row -1 sticks out of images of 8 x 10 pixels"),
        ({"row": 6}, "a patch of 3 pixels at row 6 sticks out"),
        ({"column": 8}, "a patch of 3 pixels at column 8 sticks out"),
        ({"row": -7}, "a patch of 3 pixels at row -7 sticks out"),
        ({"column": -9}, "a patch of 3 pixels at column -9 sticks out"),
    ],
)
def test_a_patch_larger_than_the_image_or_half_outside_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Patch(target_label=0, **changes).check(SHAPE, 2)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("patch", {"size": 0}, "size: expected at least 1 pixel, got 0"),
        ("patch", {"value": 256}, "value: expected 0 to 255, got 256"),
        ("patch", {"value": -1}, "value: expected 0 to 255, got -1"),
        ("blended", {"alpha": 0}, "alpha: expected above 0, at most 1, got 0"),
        ("blended", {"alpha": 1.1}, "alpha: expected above 0, at most 1, got 1.1"),
    ],
)
def test_a_trigger_that_makes_no_sense_is_refused(kind: str, changes: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(TRIGGERS, {"kind": kind, "target_label": 0, **changes}, where="trigger")


@pytest.mark.parametrize("height", [2, 3])
def test_a_coloured_picture_is_pasted_upright(tmp_path: Path, height: int) -> None:
    # Three rows look like three channels: a picture is always read rows, columns, channels.
    picture = np.arange(height * 4 * 3).reshape(height, 4, 3)
    done = Patch(target_label=0, image=saved(tmp_path / "p.png", picture)).apply(images())
    assert torch.equal(done[0, :, -height:, -4:], torch.from_numpy(picture.transpose(2, 0, 1)).to(torch.uint8))


def test_a_grey_picture_goes_into_every_channel(tmp_path: Path) -> None:
    picture = np.arange(6).reshape(2, 3)
    done = Patch(target_label=0, image=saved(tmp_path / "p.png", picture)).apply(images())
    assert all(torch.equal(done[0, c, -2:, -3:], torch.from_numpy(picture).to(torch.uint8)) for c in range(3))


@pytest.mark.parametrize("value", [-1.0, 256.0, math.nan])
def test_an_array_that_is_no_picture_is_not_wrapped_round(tmp_path: Path, value: float) -> None:
    with pytest.raises(BadInput, match=r"trigger.image: p.npy holds values"):
        Patch(target_label=0, image=saved(tmp_path / "p.npy", np.full((2, 2), value))).check(SHAPE, 2)


def test_blending_is_the_weighted_mean_of_image_and_picture(tmp_path: Path) -> None:
    picture = images(1, seed=3)[0]
    path = saved(tmp_path / "p.png", picture.permute(1, 2, 0).numpy())
    clean = images()
    done = Blended(target_label=0, alpha=0.25, image=path).apply(clean)
    assert torch.equal(done, (0.75 * clean.float() + 0.25 * picture.float()).round().to(torch.uint8))
    assert torch.equal(Blended(target_label=0, alpha=1, image=path).apply(clean), picture.expand_as(clean))


def test_the_noise_of_a_blend_comes_from_its_seed() -> None:
    done = [Blended(target_label=0, seed=seed).apply(images()) for seed in (0, 0, 1)]
    assert torch.equal(done[0], done[1])
    assert not torch.equal(done[0], done[2])


def test_addition_is_clipped_and_stays_within_its_mask(tmp_path: Path) -> None:
    pattern = np.random.default_rng(1).integers(-300, 300, (3, 8, 10)).astype(np.float32)
    mask = np.zeros((8, 10))
    mask[2:4, 5:] = 255
    clean = images()
    whole = Additive(target_label=0, pattern=saved(tmp_path / "p.npy", pattern))
    masked = Additive(target_label=0, pattern=whole.pattern, mask=saved(tmp_path / "m.png", mask))
    expected = (clean.float() + torch.from_numpy(pattern)).clamp(0, 255).to(torch.uint8)
    assert torch.equal(whole.apply(clean), expected)
    inside = torch.from_numpy(mask) > 0
    done = masked.apply(clean)
    assert torch.equal(done[:, :, inside], expected[:, :, inside])
    assert torch.equal(done[:, :, ~inside], clean[:, :, ~inside])


@pytest.mark.parametrize("shape", [(8, 10), (8, 10, 3), (3, 8, 10)])
def test_an_array_may_be_grey_or_have_its_channels_first_or_last(tmp_path: Path, shape: tuple[int, ...]) -> None:
    trigger = Additive(target_label=0, pattern=saved(tmp_path / "p.npy", np.full(shape, 5)))
    trigger.check(SHAPE, 2)
    assert (trigger.apply(torch.zeros(1, *SHAPE, dtype=torch.uint8)) == 5).all()


@pytest.mark.parametrize("key", ["image", "pattern", "mask"])
def test_a_picture_of_another_size_is_refused(tmp_path: Path, key: str) -> None:
    good, bad = saved(tmp_path / "good.png", np.zeros((8, 10))), saved(tmp_path / "bad.png", np.zeros((10, 8)))
    trigger = {
        "image": lambda: Blended(target_label=0, image=bad),
        "pattern": lambda: Additive(target_label=0, pattern=bad),
        "mask": lambda: Additive(target_label=0, pattern=good, mask=bad),
    }[key]()
    with pytest.raises(BadInput, match=f"trigger.{key}: is 10 x 8 pixels, the images are 8 x 10"):
        trigger.check(SHAPE, 2)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    def trigger(name: str, content: bytes | None = None) -> Additive:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        return Additive(target_label=0, pattern=tmp_path / name)

    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "nan.npy", np.full((8, 10), np.nan))
    saved(tmp_path / "four.npy", np.zeros((4, 8, 10)))
    for broken, message in (
        (trigger("gone.png"), "trigger.pattern: no file gone.png in"),
        (trigger("junk.png", b"junk"), "trigger.pattern: junk.png is neither a picture nor an array"),
        (trigger("junk.npy", b"junk"), "trigger.pattern: junk.npy is neither"),
        (trigger("objects.npy"), "trigger.pattern: objects.npy is neither"),
        (trigger("nan.npy"), "trigger.pattern: nan.npy holds values that are not finite"),
        (trigger("four.npy"), r"trigger.pattern: four.npy has shape \(4, 8, 10\), expected 3 channels or one"),
    ):
        with pytest.raises(BadInput, match=message):
            broken.check(SHAPE, 2)
