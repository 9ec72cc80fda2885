"""One contract for every attack on a model that its victim will put under a task of their own."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from raybd.attacks import ATTACKS, BadEncoder, Latent, Workshop
from raybd.attacks.upstream import Upstream
from raybd.registry import build, describe
from raybd.simclr import SimCLR
from raybd.training import Recipe
from raybd.triggers import Patch
from raybd.weights import state_of, weights_digest
from tests import upstream
from tests.digits import stripes


@dataclass(frozen=True)
class Case:
    """An attack that takes an instant, and how models are trained where it is planted."""

    attack: Upstream
    recipe: Any

    def workshop(self) -> Workshop:
        return upstream.small(self.recipe)


CASES = {
    "bad_encoder": Case(BadEncoder(target_label=1, size=2, epochs=2, batch_size=16), SimCLR(epochs=1, batch_size=16)),
    "latent": Case(
        Latent(target_label=1, size=2, epochs=2, batch_size=16, reference_images=4),
        Recipe(epochs=1, lr=0.05, batch_size=16),
    ),
}


def test_every_such_attack_of_the_table_is_under_contract() -> None:
    assert CASES.keys() == {kind for kind, cls in ATTACKS.items() if issubclass(cls, Upstream)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestContract:
    def test_there_is_no_poisoned_training_set_and_the_trigger_is_the_square(self, case: Case) -> None:
        planted = case.attack.plant(case.workshop(), seed=0)
        assert planted.training_set is None
        assert planted.poisoned == ()
        assert planted.trigger == Patch(target_label=1, size=2)
        assert not planted.model.training

    def test_it_repeats_by_seed_to_the_bit_and_leaves_its_inputs_alone(self, case: Case) -> None:
        workshop, stream = case.workshop(), torch.get_rng_state()
        digests = [weights_digest(state_of(case.attack.plant(workshop, seed=seed).model)) for seed in (1, 1, 2)]
        fresh = weights_digest(state_of(case.attack.plant(case.workshop(), seed=1).model))
        assert fresh == digests[0] == digests[1] != digests[2]
        assert weights_digest(state_of(workshop.twin(1))) != digests[0]
        assert workshop.train.digest() == stripes().digest()
        assert workshop.references is not None
        assert workshop.references.digest() == stripes(seed=1).digest()
        assert torch.equal(torch.get_rng_state(), stream)

    def test_it_goes_to_yaml_and_back(self, case: Case) -> None:
        assert build(ATTACKS, describe(case.attack), where="attack") == case.attack
