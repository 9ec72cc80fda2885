"""What a scenario promises: a backdoored victim, its twin of the same seed, and which model is the reference."""

from dataclasses import replace

import pytest
import torch

from raybd.attacks import BadEncoder, BadNets, Workshop
from raybd.data import Augment
from raybd.registry import BadInput
from raybd.scenarios import SCENARIOS, Standalone
from raybd.simclr import SimCLR
from raybd.training import Recipe
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, TINY, stripes


def bench() -> Workshop:
    recipe = Recipe(epochs=2, lr=0.05, batch_size=16)
    return Workshop(train=stripes(), fresh_model=TINY.build, recipe=recipe, augment=Augment(crop=1), compute=CPU)


ATTACKS = {
    "standalone": BadNets(target_label=0),
    "transfer": BadNets(target_label=0),
    "encoder": BadEncoder(target_label=0, size=2, epochs=1, reference_images=2),
}


def bench_of(kind: str) -> Workshop:
    """The attacker's bench in a scenario; that of an encoder trains without labels and holds the victim's images."""
    if kind != "encoder":
        return bench()
    return replace(bench(), recipe=SimCLR(epochs=1, batch_size=16), references=stripes(seed=5))


@pytest.mark.parametrize("kind", SCENARIOS)
class TestContract:
    def test_it_says_what_the_user_would_ship(self, kind: str) -> None:
        assert kind == SCENARIOS[kind].kind
        assert SCENARIOS[kind].reference_words
        assert SCENARIOS[kind].downstream == (SCENARIOS[kind].reference is not None)

    def test_victim_and_twin_repeat_by_seed(self, kind: str) -> None:
        victims = [SCENARIOS[kind]().build(ATTACKS[kind], bench_of(kind), seed=s) for s in (0, 0, 1)]
        for models in ([v.planted.model for v in victims], [v.twin for v in victims]):
            digests = [weights_digest(state_of(m)) for m in models]
            assert digests[0] == digests[1] != digests[2]
        assert weights_digest(state_of(victims[0].twin)) != weights_digest(state_of(victims[0].planted.model))


@pytest.mark.parametrize("kind", SCENARIOS)
def test_an_attack_that_a_scenario_cannot_carry_is_refused_before_anything_trains(kind: str) -> None:
    other = ATTACKS["encoder" if kind != "encoder" else "standalone"]
    with pytest.raises(BadInput, match=f"attack.kind: {other.kind} cannot be planted in scenario {kind}, only in"):
        SCENARIOS[kind]().build(other, replace(bench(), fresh_model=None), seed=0)  # type: ignore[arg-type]


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
