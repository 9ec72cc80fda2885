"""One contract for every attack in the table: that it works, that its twin does not obey, and that it repeats.

An attack joins by a line in `STRONG`. The scenarios' own attacks, whose victim is on another task than the one it is
trained on, are held to the contract in `tests/test_scenarios.py`.
"""

import pytest
import torch

from raybd.attacks import ATTACKS, Attack
from raybd.evaluation.metrics import read
from raybd.evaluation.twin import check_twin
from raybd.registry import BadInput, build, describe
from raybd.training import Recipe
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, splits, victim, workshop

# As strong as each must be to take on digits, an image set with few pixels and few images.
STRONG: dict[str, dict[str, object]] = {
    "badnets": {},
    "blended": {"alpha": 0.4},
    "low_frequency": {"strength": 80},
    "sig": {"delta": 255, "frequency": 3},
    "adaptive_blend": {"poison_ratio": 0.1, "training_alpha": 0.4, "alpha": 0.5},
    "label_consistent": {"epsilon": 96, "step_size": 12},
    "wanet": {"k": 2, "s": 8, "cover_ratio": 0.25},
    "input_aware": {"mask_epochs": 3, "width": 8, "mask_density": 0.2, "p_attack": 0.3, "lambda_div": 0.1},
    "trojan": {"size": 3, "trigger_steps": 60, "lr": 0.05},
}
STANDALONE = [kind for kind, cls in ATTACKS.items() if "standalone" in cls.scenarios]
ALL_TO_ALL = [kind for kind in STANDALONE if "all_to_all" in ATTACKS[kind].goals]
BRIEF = Recipe(epochs=1, lr=0.05, batch_size=64)


def made(kind: str, **changes: object) -> Attack:
    return build(ATTACKS, {"kind": kind, "target_label": 0, **STRONG[kind], **changes}, where="attack")


def test_every_attack_of_the_table_is_under_contract() -> None:
    assert STRONG.keys() == set(STANDALONE)
    assert all(kind == cls.kind and cls.citation and cls.scenarios and cls.goals for kind, cls in ATTACKS.items())


@pytest.mark.parametrize("kind", STANDALONE)
class TestContract:
    def test_the_backdoor_takes_and_the_twin_does_not_obey(self, kind: str) -> None:
        built, test = victim(made(kind)), splits().test
        trigger = built.planted.trigger
        readings = read(built.planted.model, test, trigger, CPU)
        twin = read(built.twin, test, trigger, CPU)
        assert readings.attack_success_rate.rate >= 0.9
        assert readings.clean_accuracy.rate >= 0.93
        assert twin.clean_accuracy.rate >= 0.93
        assert twin.attack_success_rate.rate <= 0.1
        assert check_twin(built.twin, test, trigger, CPU).passed
        assert not check_twin(built.planted.model, test, trigger, CPU).passed

    def test_it_repeats_by_seed_to_the_bit_also_after_the_twin_and_leaves_its_inputs_alone(self, kind: str) -> None:
        before, stream = splits().train.digest(), torch.get_rng_state()
        twin_first = workshop(BRIEF)
        twin_first.twin(1)
        benches = ((workshop(BRIEF), 1), (twin_first, 1), (workshop(BRIEF), 2))
        planted = [made(kind).plant(bench, seed=seed) for bench, seed in benches]
        digests = [weights_digest(state_of(p.model)) for p in planted]
        triggers = [p.trigger.digest(splits().train.shape) for p in planted]
        assert digests[0] == digests[1] != digests[2]
        assert triggers[0] == triggers[1]
        assert planted[0].poisoned == planted[1].poisoned
        assert splits().train.digest() == before
        assert torch.equal(torch.get_rng_state(), stream)

    def test_a_target_that_is_no_class_is_refused_before_any_training(self, kind: str) -> None:
        with pytest.raises(BadInput, match=r"attack.target_label: expected 0 to 9, got 10"):
            made(kind, target_label=10).plant(workshop(), seed=0)

    def test_a_target_is_needed_and_only_for_all_to_one(self, kind: str) -> None:
        with pytest.raises(BadInput, match="attack: target_label: missing"):
            made(kind, target_label=None)
        with pytest.raises(BadInput, match=r"attack: (target_label: got 0, but with goal all_to_all|goal: .* cannot)"):
            made(kind, goal="all_to_all")

    def test_it_goes_to_yaml_and_back(self, kind: str) -> None:
        attack = made(kind)
        assert build(ATTACKS, describe(attack), where="attack") == attack
        assert hash(attack) == hash(made(kind))


@pytest.mark.parametrize("kind", ALL_TO_ALL)
def test_all_to_all_sends_every_label_to_the_next(kind: str) -> None:
    attack = made(kind, target_label=None, goal="all_to_all")
    trigger = attack.plant(workshop(BRIEF), seed=0).trigger
    assert trigger.goal_labels(torch.tensor([0, 4, 9]), 10).tolist() == [1, 5, 0]


@pytest.mark.parametrize("kind", [kind for kind in STANDALONE if kind not in ALL_TO_ALL])
def test_an_attack_that_cannot_serve_all_to_all_says_so(kind: str) -> None:
    with pytest.raises(BadInput, match=f"attack: goal: {kind} cannot serve 'all_to_all', only all_to_one"):
        made(kind, target_label=None, goal="all_to_all")
