"""Every named network takes the small images it is for, trains, and starts from its seed alone."""

import pytest
import torch

from raybd.architectures import ARCHITECTURES
from raybd.models import Architecture
from raybd.weights import state_of, weights_digest

SMALL = sorted(set(ARCHITECTURES) - {"resnet34", "resnet50"})


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_a_network_takes_small_images_and_all_of_it_is_trained(name: str, shape: tuple[int, int, int]) -> None:
    model = Architecture(name=name, classes=7, shape=shape).build(0)
    images = torch.rand(2, *shape)
    logits = model(images)
    assert logits.shape == (2, 7)
    assert model.features(images).shape == (2, model.head.in_features)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_large_ones_too(name: str) -> None:
    assert Architecture(name=name, classes=7, shape=(3, 32, 32)).build(0)(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_alone_decides_the_first_weights(name: str) -> None:
    architecture = Architecture(name=name, classes=3, shape=(1, 8, 8))
    digests = [weights_digest(state_of(architecture.build(seed))) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_the_small_resnet_has_the_size_it_says() -> None:
    def count(**arguments: int) -> int:
        network = ARCHITECTURES["small_resnet"](classes=10, channels=3, **arguments)
        return sum(p.numel() for p in network.parameters())

    assert 70_000 < count() < 90_000
    assert 280_000 < count(width=32) < 330_000
    assert count(blocks=2) > 1.8 * count()


def test_small_images_keep_their_resolution_in_a_torchvision_stem() -> None:
    network = ARCHITECTURES["resnet18"](classes=3, channels=1)
    stem = torch.nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    assert stem(torch.rand(1, 1, 8, 8)).shape == (1, 64, 8, 8)
