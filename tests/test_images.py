import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raybd.images import add, blend, flip, pad_and_crop, paste, resize
from raybd.registry import BadInput


def random_images(n=4, c=3, h=6, w=7, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=stream)


def test_paste_writes_the_patch_where_it_is_told_and_nothing_else():
    images = random_images()
    before = images.clone()
    patch = torch.full((3, 2, 3), 255, dtype=torch.uint8)
    out = paste(images, patch, 4, 1)
    assert (out[:, :, 4:6, 1:4] == 255).all()
    out[:, :, 4:6, 1:4] = images[:, :, 4:6, 1:4]
    assert torch.equal(out, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("row", "column"), [(5, 0), (0, 5), (-1, 0), (0, -1)])
def test_a_patch_outside_the_image_is_refused(row, column):
    with pytest.raises(BadInput, match=r"2x3 at row .* does not lie inside an image of 6x7"):
        paste(random_images(), torch.zeros(3, 2, 3, dtype=torch.uint8), row, column)


def test_blend_rounds_to_the_nearest_pixel_value():
    images = torch.tensor([0, 10, 100, 255], dtype=torch.uint8).reshape(1, 1, 2, 2)
    pattern = torch.tensor([255, 13, 0, 255], dtype=torch.uint8).reshape(1, 2, 2)
    assert blend(images, pattern, 0.2).flatten().tolist() == [51, 11, 80, 255]
    assert torch.equal(blend(images, pattern, 0.0), images)
    assert torch.equal(blend(images, pattern, 1.0)[0], pattern)


def test_blend_refuses_a_share_outside_zero_to_one():
    with pytest.raises(BadInput, match=r"alpha: .*1\.2"):
        blend(random_images(), random_images()[0], 1.2)


def test_add_clips_at_black_and_white_instead_of_wrapping():
    images = torch.tensor([0, 250, 100], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert add(images, torch.tensor([[[-5, 10, -20]]], dtype=torch.int16)).flatten().tolist() == [0, 255, 80]
    assert add(images, torch.tensor([[[0.4, 0.6, 0.6]]])).flatten().tolist() == [0, 251, 101]


def test_add_weighs_the_pattern_by_its_mask_over_all_channels():
    images = torch.full((2, 3, 1, 3), 100, dtype=torch.uint8)
    pattern = torch.full((3, 1, 3), 40, dtype=torch.int16)
    assert add(images, pattern, torch.tensor([[[0.0, 0.5, 1.0]]]))[1, 2].flatten().tolist() == [100, 120, 140]
    assert add(images, pattern, torch.tensor([[[True, False, True]]]))[0, 0].flatten().tolist() == [
        140,
        100,
        140,
    ]


def test_flip_mirrors_only_the_marked_images():
    images = random_images()
    out = flip(images, torch.tensor([True, False, True, False]))
    assert torch.equal(out[0], images[0].flip(-1))
    assert torch.equal(out[1], images[1])
    assert torch.equal(flip(out, torch.tensor([True, False, True, False])), images)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(0, 99))
def test_pad_and_crop_is_a_window_of_the_padded_image_for_every_image(padding, height, width, channels, seed):
    images = random_images(5, channels, height, width, seed)
    out = pad_and_crop(images, padding, torch.Generator().manual_seed(seed))
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for got, whole in zip(out, padded, strict=True):
        windows = [
            whole[:, y : y + height, x : x + width] for y in range(2 * padding + 1) for x in range(2 * padding + 1)
        ]
        assert any(torch.equal(got, window) for window in windows)


def test_pad_and_crop_reaches_every_shift_and_repeats_with_its_seed():
    images = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 1
    out = pad_and_crop(images, 2, torch.Generator().manual_seed(3))
    places = out.flatten(1).float().argmax(1)
    counts = torch.bincount(places, minlength=25)
    assert counts.min() > 40  # 80 expected of each of the 25 shifts; 40 is 4.5 standard deviations away
    assert torch.equal(out, pad_and_crop(images, 2, torch.Generator().manual_seed(3)))
    assert not torch.equal(out, pad_and_crop(images, 2, torch.Generator().manual_seed(4)))


def test_resize_keeps_flat_images_flat_and_gives_the_size_asked_for():
    images = torch.full((3, 3, 5, 9), 77, dtype=torch.uint8)
    out = resize(images, 4)
    assert out.shape == (3, 3, 4, 4)
    assert (out == 77).all()


def test_resize_averages_when_it_shrinks():
    checkers = (torch.arange(64).reshape(1, 1, 8, 8) % 2 * 200).to(torch.uint8)
    assert (resize(checkers, 2).float() - 100).abs().max() < 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_pixels_as_the_cpu():
    images, which = random_images(64, 3, 32, 32), torch.rand(64) < 0.5
    pattern, there = random_images(1, 3, 32, 32, 5)[0], random_images(64, 3, 32, 32).cuda()
    signed = pattern.short() - 128
    pairs = [
        (paste(images, pattern[:, :4, :4], 2, 3), paste(there, pattern[:, :4, :4], 2, 3)),
        (blend(images, pattern, 0.2), blend(there, pattern, 0.2)),
        (add(images, signed), add(there, signed)),
        (flip(images, which), flip(there, which)),
        (
            pad_and_crop(images, 4, torch.Generator().manual_seed(0)),
            pad_and_crop(there, 4, torch.Generator().manual_seed(0)),
        ),
    ]
    for cpu, gpu in pairs:
        assert (cpu.int() - gpu.cpu().int()).abs().max() <= 1  # rounding of a float sum may differ by one
