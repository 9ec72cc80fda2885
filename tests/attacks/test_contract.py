"""One contract for every attack in the table: what it poisons, that it works, and that its twin does not obey."""

import pytest
import torch

from raybd.attacks import ATTACKS, Attack, DataPoisoning
from raybd.data import ImageSet
from raybd.evaluation.metrics import read
from raybd.evaluation.twin import check_twin
from raybd.registry import BadInput, build, describe
from raybd.training import Recipe
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, splits, stripes, victim, workshop

# As strong as each must be to take on digits, an image set with few pixels and few images.
STRONG = {"badnets": {}, "blended": {"alpha": 0.4}}
BRIEF = Recipe(epochs=1, lr=0.05, batch_size=64)


def made(kind: str, **changes: object) -> Attack:
    return build(ATTACKS, {"kind": kind, "target_label": 0, **STRONG[kind], **changes}, where="attack")


def test_every_attack_of_the_table_is_under_contract() -> None:
    assert STRONG.keys() == ATTACKS.keys()
    assert all(kind == cls.kind and cls.citation for kind, cls in ATTACKS.items())


@pytest.mark.parametrize("kind", ATTACKS)
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

    def test_it_repeats_by_seed_to_the_bit_and_leaves_its_inputs_alone(self, kind: str) -> None:
        before, stream = splits().train.digest(), torch.get_rng_state()
        planted = [made(kind).plant(workshop(BRIEF), seed=seed) for seed in (1, 1, 2)]
        digests = [weights_digest(state_of(p.model)) for p in planted]
        assert digests[0] == digests[1] != digests[2]
        assert planted[0].poisoned == planted[1].poisoned != planted[2].poisoned
        assert splits().train.digest() == before
        assert torch.equal(torch.get_rng_state(), stream)

    def test_a_trigger_that_does_not_fit_is_refused_before_any_training(self, kind: str) -> None:
        with pytest.raises(BadInput, match=r"trigger.target_label: expected 0 to 9, got 10"):
            made(kind, target_label=10).plant(workshop(), seed=0)

    def test_it_goes_to_yaml_and_back(self, kind: str) -> None:
        attack = made(kind)
        assert build(ATTACKS, describe(attack), where="attack") == attack
        assert hash(attack) == hash(made(kind))


POISONING = [kind for kind, cls in ATTACKS.items() if issubclass(cls, DataPoisoning)]


def poisoned(kind: str, train: ImageSet, *, seed: int = 0, **changes: object) -> tuple[ImageSet, tuple[int, ...]]:
    attack = made(kind, **changes)
    assert isinstance(attack, DataPoisoning)
    return attack.poison(train, seed=seed)


@pytest.mark.parametrize("kind", POISONING)
class TestPoisoning:
    @pytest.mark.parametrize("ratio", [0.01, 0.1, 0.333, 0.9])
    def test_the_ratio_is_that_of_poisoned_images_to_the_whole_set(self, kind: str, ratio: float) -> None:
        done, chosen = poisoned(kind, splits().train, poison_ratio=ratio)
        assert len(chosen) == len(set(chosen)) == round(ratio * len(splits().train))
        assert len(done) == len(splits().train)

    def test_only_the_chosen_images_change_and_they_get_the_goal(self, kind: str) -> None:
        train = splits().train
        before = train.digest()
        done, chosen = poisoned(kind, train)
        rest = sorted(set(range(len(train))) - set(chosen))
        trigger = made(kind).trigger()
        assert torch.equal(done.images[rest], train.images[rest])
        assert torch.equal(done.labels[rest], train.labels[rest])
        assert torch.equal(done.images[list(chosen)], trigger.apply(train.images[list(chosen)]))
        assert torch.equal(done.labels[list(chosen)], trigger.goal_labels(train.labels[list(chosen)]))
        assert train.digest() == before

    def test_the_choice_repeats_by_seed(self, kind: str) -> None:
        first, second, third = (poisoned(kind, splits().train, seed=seed) for seed in (0, 0, 1))
        assert first[0].digest() == second[0].digest() != third[0].digest()
        assert first[1] == second[1] != third[1]

    def test_the_indices_a_victim_reports_are_those_of_its_training_set(self, kind: str) -> None:
        planted, train = victim(made(kind)).planted, splits().train
        assert planted.training_set is not None
        differs = (planted.training_set.images != train.images).flatten(1).any(1)
        assert set(differs.nonzero().flatten().tolist()) <= set(planted.poisoned)
        assert len(planted.poisoned) == round(0.1 * len(train))

    @pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5])
    def test_a_ratio_that_is_no_share_is_refused(self, kind: str, ratio: float) -> None:
        with pytest.raises(BadInput, match="attack: poison_ratio: expected between 0 and 1, got"):
            made(kind, poison_ratio=ratio)

    def test_a_ratio_that_poisons_nothing_is_refused(self, kind: str) -> None:
        with pytest.raises(BadInput, match=r"poison_ratio: 0.001 of 48 images is no image"):
            poisoned(kind, stripes(), poison_ratio=0.001)
