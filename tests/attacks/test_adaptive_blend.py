"""Adaptive-Blend shows half of its picture in training, another half on each image, and all of it at test time."""

import pytest
import torch

from raybd.attacks import AdaptiveBlend
from raybd.registry import BadInput
from raybd.triggers import Blended
from tests.digits import splits, workshop


def test_at_test_time_it_shows_the_whole_picture() -> None:
    attack = AdaptiveBlend(target_label=3, alpha=0.3, training_alpha=0.1, pattern_seed=7)
    assert attack.trigger() == Blended(target_label=3, alpha=0.3, seed=7)


@pytest.mark.parametrize(("pieces", "share"), [(2, 2 / 4), (4, 8 / 16), (3, 4 / 9)])
def test_each_image_shows_half_of_the_pieces(pieces: int, share: float) -> None:
    images = torch.zeros(40, 1, 12, 24, dtype=torch.uint8)
    shown = AdaptiveBlend(target_label=0, pieces=pieces).shown(images, 5)
    blocks = shown.float().view(40, pieces, 12 // pieces, pieces, 24 // pieces).mean((2, 4))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(blocks.mean((1, 2)), torch.full((40,), share))


def test_each_image_shows_another_half_and_every_piece_is_shown_somewhere() -> None:
    shown = AdaptiveBlend(target_label=0).shown(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), 5)
    assert len(shown.unique(dim=0)) > 30
    assert shown.any(0).all()


def test_poisoned_images_show_the_faint_picture_in_their_pieces_and_themselves_elsewhere() -> None:
    attack = AdaptiveBlend(target_label=0, training_alpha=0.1, alpha=0.5)
    clean = splits().train.images[:30]
    shown, done = attack.shown(clean, 5), attack.stamp(clean, splits().train.labels[:30], 5)
    assert torch.equal(done[shown], Blended(target_label=0, alpha=0.1).apply(clean)[shown])
    assert torch.equal(done[~shown], clean[~shown])


@pytest.mark.parametrize("cover_ratio", [0, 0.5, 2])
def test_covers_show_such_pieces_under_their_own_label(cover_ratio: float) -> None:
    train = splits().train
    done = AdaptiveBlend(target_label=0, poison_ratio=0.02, cover_ratio=cover_ratio).poison(workshop(), seed=0)
    covers = list(done.covers)
    changed = (done.training_set.images[covers] != train.images[covers]).flatten(1).float().mean(1)
    assert len(covers) == cover_ratio * len(done.poisoned)
    assert torch.equal(done.training_set.labels[covers], train.labels[covers])
    assert ((changed > 0) & (changed <= 0.5)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cover_ratio": -1}, "cover samples: .* got 0.003 and -0.003"),
        ({"training_alpha": 0}, "training_alpha: expected above 0, at most 1, got 0"),
        ({"training_alpha": 1.5}, "training_alpha: expected above 0, at most 1, got 1.5"),
        ({"alpha": 1.5}, "alpha: expected above 0, at most 1, got 1.5"),
        ({"pieces": 1}, "pieces: expected at least 2 per axis, got 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_when_the_study_is_read(
    changes: dict[str, float], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        AdaptiveBlend(target_label=0, **changes)


def test_more_pieces_than_pixels_are_refused() -> None:
    with pytest.raises(BadInput, match=r"attack.pieces: 9 x 9 do not fit images of 8 x 8 pixels"):
        AdaptiveBlend(target_label=0, pieces=9, poison_ratio=0.1).poison(workshop(), seed=0)
