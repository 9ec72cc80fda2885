"""What a scenario promises: a backdoored victim, its twin of the same seed, and which model is the reference."""

import pytest
import torch

from raybd.attacks import BadNets, Workshop
from raybd.data import Augment
from raybd.scenarios import SCENARIOS, Standalone
from raybd.training import Recipe
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, TINY, stripes


def bench() -> Workshop:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=16)
    return Workshop(train=stripes(), fresh_model=TINY.build, recipe=recipe, augment=Augment(crop=1), compute=CPU)


@pytest.mark.parametrize("kind", SCENARIOS)
class TestContract:
    def test_it_says_what_the_user_would_ship(self, kind: str) -> None:
        assert kind == SCENARIOS[kind].kind
        assert SCENARIOS[kind].reference_words
        assert SCENARIOS[kind].downstream == (SCENARIOS[kind].reference is not None)

    def test_victim_and_twin_repeat_by_seed(self, kind: str) -> None:
        victims = [SCENARIOS[kind]().build(BadNets(target_label=0), bench(), seed=s) for s in (0, 0, 1)]
        for models in ([v.planted.model for v in victims], [v.twin for v in victims]):
            digests = [weights_digest(state_of(m)) for m in models]
            assert digests[0] == digests[1] != digests[2]
        assert weights_digest(state_of(victims[0].twin)) != weights_digest(state_of(victims[0].planted.model))


def test_the_twin_differs_from_its_sibling_by_the_poison_alone() -> None:
    """Trained on the poisoned set, the twin's recipe and seed give the victim's weights to the bit."""
    victim = Standalone().build(BadNets(target_label=0), bench(), seed=4)
    assert victim.planted.training_set is not None
    again, _ = bench().trained(victim.planted.training_set, seed=4, word="again")
    twin, _ = bench().trained(bench().train, seed=4, word="twin")
    assert weights_digest(state_of(again)) == weights_digest(state_of(victim.planted.model))
    assert weights_digest(state_of(twin)) == weights_digest(state_of(victim.twin))


def test_the_training_images_are_left_alone() -> None:
    before, ready, stream = stripes().digest(), bench(), torch.get_rng_state()
    Standalone().build(BadNets(target_label=0), ready, seed=0)
    assert ready.train.digest() == before
    assert torch.equal(torch.get_rng_state(), stream)
