import copy
import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from raybd.data import ImageSet
from raybd.evaluation.metrics import Rate
from raybd.evaluation.reinjection import poisoned_pool, reinject
from raybd.registry import BadInput
from raybd.training import Compute
from raybd.triggers import Patch
from tests.evaluation.fakes import CPU

CLASSES = 3
TRIGGER = Patch(target_label=0, size=2)


def stripes(n: int, seed: int) -> ImageSet:
    """Noisy 6x6 images whose bright row tells the class; the lower right corner, the trigger's, is dark."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = torch.randint(0, 60, (n, 1, 6, 6), generator=generator)
    images[torch.arange(n), 0, labels] += 150
    return ImageSet(images=images.to(torch.uint8), labels=labels, classes=CLASSES)


CLEAN, TEST = stripes(60, 0), stripes(90, 1)


def small_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def attack(
    model: nn.Module, poisoned_samples: int, seed: int = 0, lr: float = 0.05, compute: Compute = CPU
) -> Rate | None:
    return reinject(
        model,
        CLEAN,
        TRIGGER,
        TEST,
        poisoned_samples=poisoned_samples,
        steps=120,
        lr=lr,
        batch_size=16,
        compute=compute,
        seed=seed,
    )


class Watched(nn.Module):
    """Notes for each forward pass whether it learns and whether it runs in reduced precision."""

    seen: ClassVar[list[tuple[bool, bool]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        out: Tensor = self.net(x)
        return out


def test_it_trains_in_the_studys_precision_and_is_read_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watched, "seen", [])
    attack(Watched(), 5, compute=replace(CPU, precision="bf16"))
    assert set(Watched.seen) == {(True, True), (False, False)}


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_enough_poison_brings_a_backdoor_and_none_brings_none() -> None:
    none, many = attack(small_net(), 0), attack(small_net(), 30)
    assert none is not None
    assert many is not None
    assert none.n == many.n == 60  # a third of the images have the goal label already
    assert none.rate <= 0.1
    assert many.rate >= 0.9


def test_the_model_is_left_as_it_was() -> None:
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    attack(model, 5)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_rate_and_torchs_own_stream_is_not_touched() -> None:
    state = torch.get_rng_state()
    assert attack(small_net(), 3, seed=4) == attack(small_net(), 3, seed=4)
    assert torch.equal(state, torch.get_rng_state())


def test_the_pool_is_the_clean_set_and_k_distinct_triggered_images_with_the_goal_label() -> None:
    pool = poisoned_pool(CLEAN, TRIGGER, 20, seed=3)
    assert torch.equal(pool.images[:60], CLEAN.images)
    assert torch.equal(pool.labels[:60], CLEAN.labels)
    assert pool.labels[60:].tolist() == [0] * 20
    assert (pool.images[60:, 0, 4:, 4:] == 255).all()
    others = CLEAN.images[CLEAN.labels != 0]
    assert len(rows(pool.images[60:])) == 20
    assert rows(pool.images[60:]) <= rows(TRIGGER.apply(others))


def test_a_smaller_number_of_samples_is_among_a_larger_and_a_seed_changes_them() -> None:
    pools = {k: rows(poisoned_pool(CLEAN, TRIGGER, k, seed=3).images[60:]) for k in (0, 1, 5, 20)}
    assert pools[0] < pools[1] < pools[5] < pools[20]
    assert rows(poisoned_pool(CLEAN, TRIGGER, 5, seed=4).images[60:]) != pools[5]


@pytest.mark.parametrize("poisoned_samples", [-1, 41])
def test_more_samples_than_there_are_is_refused(poisoned_samples: int) -> None:
    assert len(poisoned_pool(CLEAN, TRIGGER, 40, seed=0)) == 100
    with pytest.raises(BadInput, match="40"):
        poisoned_pool(CLEAN, TRIGGER, poisoned_samples, seed=0)


def test_a_training_that_diverges_is_no_proof_of_resistance() -> None:
    assert attack(small_net(), 5, lr=math.inf) is None
