"""SimCLR learns features without labels, from views that are random, repeat by seed and stay images."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raybd.data import Augment, ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.simclr import SimCLR, nt_xent, view
from raybd.training import Compute, finished, predict
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, TINY, splits, stripes
from tests.upstream import ENCODER, with_head

BRIEF = SimCLR(epochs=2, batch_size=16)


def accuracy(model: Classifier, data: ImageSet) -> float:
    return (predict(model, data.images, CPU).argmax(1) == data.labels).float().mean().item()


def trained(recipe: SimCLR = BRIEF, *, seed: int = 0, compute: Compute = CPU, data: ImageSet | None = None) -> Any:
    model = TINY.build(0)
    epochs = list(recipe.fit(model, data or stripes(), augment=Augment(), compute=compute, seed=seed))
    return model, epochs


def images(channels: int, n: int = 6) -> Tensor:
    return torch.rand(n, channels, 12, 10, generator=torch.Generator().manual_seed(0))


def seen(x: Tensor, seed: int = 0, smallest: float = 0.08, *, mirror: bool = True) -> Tensor:
    return view(x, torch.Generator().manual_seed(seed), smallest, mirror=mirror)


def test_the_loss_falls_and_a_linear_head_reads_more_from_the_features_than_from_untrained_ones() -> None:
    model, data = ENCODER.build(0), splits()
    recipe = SimCLR(epochs=5, batch_size=64, smallest_crop=0.3, flip=False)
    untrained = accuracy(with_head(model, data.clean_set), data.test)
    epochs = list(recipe.fit(model, data.train, augment=Augment(), compute=CPU, seed=0))
    assert epochs[-1].loss < epochs[0].loss < math.log(2 * 64 - 1)
    assert accuracy(with_head(model, data.clean_set), data.test) > max(0.8, untrained + 0.2)


def test_its_epochs_count_what_it_did() -> None:
    _, epochs = trained()
    assert [(e.index, e.steps, e.total, e.images, e.lr) for e in epochs] == [(0, 3, 6, 48, 1e-3), (1, 6, 6, 96, 1e-3)]


def test_labels_are_not_looked_at_and_the_head_is_left_alone() -> None:
    data = stripes()
    other = ImageSet(images=data.images, labels=data.labels.flip(0), classes=3)
    model, _ = trained()
    again, _ = trained(data=other)
    assert weights_digest(state_of(model)) == weights_digest(state_of(again))
    assert torch.equal(model.head.weight, TINY.build(0).head.weight)
    assert torch.equal(model.head.bias, TINY.build(0).head.bias)


def test_the_same_seed_gives_the_same_weights_and_nothing_else_is_touched() -> None:
    before, stream = stripes().digest(), torch.get_rng_state()
    data = stripes()
    digests = [weights_digest(state_of(trained(seed=seed, data=data)[0])) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert data.digest() == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_bf16_learns_too() -> None:
    _, epochs = trained(SimCLR(epochs=4, batch_size=16), compute=Compute(precision="bf16"))
    assert epochs[-1].loss < epochs[0].loss


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    model = TINY.build(0)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    last = finished(SimCLR(epochs=20, batch_size=16).fit(model, stripes(), augment=Augment(), compute=CPU, seed=0))
    assert last.collapsed == "the loss is not finite"
    assert last.steps < last.total


def test_the_contrast_is_the_papers() -> None:
    z = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    losses = []
    for i in range(8):
        alike = {j: functional.cosine_similarity(z[i], z[j], dim=0).item() / 0.5 for j in range(8) if j != i}
        losses.append(math.log(sum(map(math.exp, alike.values()))) - alike[(i + 4) % 8])
    assert nt_xent(z, 0.5).item() == pytest.approx(sum(losses) / 8, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
class TestViews:
    def test_they_differ_by_image_and_by_draw_and_repeat_by_seed(self, channels: int) -> None:
        same = images(channels, n=1).expand(6, -1, -1, -1)
        first = seen(same)
        assert torch.equal(first, seen(same))
        assert len({tuple(one.flatten().tolist()) for one in torch.cat([first, seen(same, seed=1)])}) == 12

    def test_they_are_images_of_the_same_shape(self, channels: int) -> None:
        done = seen(images(channels, n=200))
        assert done.shape == (200, channels, 12, 10)
        assert done.min() >= 0
        assert done.max() <= 1

    def test_they_neither_write_to_the_images_nor_touch_the_global_stream(self, channels: int) -> None:
        x, stream = images(channels), torch.get_rng_state()
        seen(x)
        assert torch.equal(x, images(channels))
        assert torch.equal(torch.get_rng_state(), stream)


def slopes(x: Tensor) -> Tensor:
    """How bright each image is on the right, less how bright on the left."""
    return x[..., 5:].mean(dim=(1, 2, 3)) - x[..., :5].mean(dim=(1, 2, 3))


def test_half_the_views_are_mirrored_or_none() -> None:
    ramp = torch.linspace(0.2, 0.6, 10).expand(400, 1, 12, 10)
    assert (slopes(seen(ramp, mirror=False)) > 0).all()
    assert 0.4 < (slopes(seen(ramp)) < 0).float().mean() < 0.6


def test_a_crop_may_lose_a_corner_and_the_smaller_it_may_be_the_more_often() -> None:
    corner = torch.zeros(400, 1, 40, 40)
    corner[..., :6, :6] = 1.0
    shown = {s: (seen(corner, smallest=s).amax((1, 2, 3)) > 0).float().mean().item() for s in (1.0, 0.5, 0.08)}
    assert shown[1.0] > 0.9
    assert shown[1.0] > shown[0.5] + 0.1 > shown[0.08] + 0.2


def test_a_fifth_of_the_coloured_views_is_grey() -> None:
    done = seen(images(3, n=500))
    grey = (done.amax(1) - done.amin(1)).amax((1, 2)) < 1e-6
    assert 0.12 < grey.float().mean() < 0.28


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("batch_size", 1),
        ("weight_decay", -1.0),
        ("temperature", 0.0),
        ("projection", 0),
        ("smallest_crop", 0.0),
        ("smallest_crop", 1.5),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{key}: .*got {value}"):
        SimCLR(**{"epochs": 1, key: value})  # type: ignore[arg-type]
