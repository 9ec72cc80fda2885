"""One contract for every defense in the table, and for every published setting."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raybd.data import Augment, DefenderView
from raybd.defenses import DEFENSES, PRESETS, Defense, FineTuning, reference
from raybd.models import Classifier
from raybd.registry import BadInput, build, describe
from raybd.training import Epoch
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, TINY, stripes

BRIEF: dict[str, dict[str, Any]] = {
    "super_fine_tuning": {
        "lr_base": 1e-3,
        "lr_max1": 0.1,
        "lr_max2": 0.02,
        "epochs": 2,
        "phase1_share": 0.5,
        "batch_size": 16,
        "ramp_up_steps": 2,
        "ramp_down_steps": 2,
    },
    "fine_tuning": {"epochs": 2, "lr": 0.05, "batch_size": 16},
}
PLAIN = Augment()
SUSPECT = state_of(TINY.build(0))


def made(kind: str, **changes: Any) -> Defense:
    return build(DEFENSES, {"kind": kind, **BRIEF[kind], **changes}, where="defense")


def view(augment: Augment = PLAIN) -> DefenderView:
    model = TINY.build(0)
    return DefenderView(model=model, fresh_model=TINY.build, clean_set=stripes(), training_set=None, augment=augment)


def run(defense: Defense, *, seed: int = 0, augment: Augment = PLAIN) -> tuple[dict[str, torch.Tensor], list[Epoch]]:
    held = view(augment)
    epochs = list(defense.sanitize(held, compute=CPU, seed=seed, subset_seed=0))
    assert isinstance(held.model, Classifier)
    return state_of(held.model), epochs


def test_every_defense_of_the_table_is_under_contract() -> None:
    assert BRIEF.keys() == DEFENSES.keys() == PRESETS.keys()
    assert all(kind == cls.kind and cls.citation for kind, cls in DEFENSES.items())


@pytest.mark.parametrize("kind", DEFENSES)
class TestContract:
    def test_it_yields_epochs_and_changes_the_model_it_was_given(self, kind: str) -> None:
        state, epochs = run(made(kind))
        assert len(epochs) >= 2
        assert all(isinstance(epoch, Epoch) for epoch in epochs)
        assert [e.index for e in epochs] == list(range(len(epochs)))
        assert [e.steps for e in epochs] == sorted({e.steps for e in epochs})
        assert epochs[-1].images == epochs[-1].steps * 16
        assert weights_digest(state) != weights_digest(SUSPECT)

    def test_the_same_seed_gives_the_same_weights_to_the_bit(self, kind: str) -> None:
        crop = Augment(crop=1, flip=True)
        before = torch.get_rng_state()
        digests = [weights_digest(run(made(kind), seed=seed, augment=crop)[0]) for seed in (3, 3, 4)]
        assert digests[0] == digests[1] != digests[2]
        assert torch.equal(torch.get_rng_state(), before)

    def test_stopping_it_is_closing_it(self, kind: str) -> None:
        held = view()
        running = made(kind).sanitize(held, compute=CPU, seed=0, subset_seed=0)
        assert isinstance(running, Iterator)
        assert isinstance(held.model, Classifier)
        assert weights_digest(state_of(held.model)) == weights_digest(SUSPECT)
        next(running)
        so_far = weights_digest(state_of(held.model))
        running.close()  # type: ignore[attr-defined]
        assert next(running, None) is None
        assert weights_digest(state_of(held.model)) == so_far != weights_digest(SUSPECT)

    def test_it_leaves_the_clean_set_alone(self, kind: str) -> None:
        held = view(Augment(crop=1, flip=True))
        before = held.clean_set.digest()
        list(made(kind).sanitize(held, compute=CPU, seed=0, subset_seed=0))
        assert held.clean_set.digest() == before

    def test_a_smaller_clean_fraction_trains_on_part_of_a_larger_one(self, kind: str) -> None:
        data = stripes()

        def images(fraction: float, subset_seed: int = 0) -> set[bytes]:
            chosen = made(kind, clean_fraction=fraction).training_images(data, subset_seed)
            return {row.numpy().tobytes() for row in chosen.images}

        sets = [images(fraction) for fraction in (0.25, 0.5, 1.0)]
        assert [len(s) for s in sets] == [12, 24, 48]
        assert sets[0] < sets[1] < sets[2]
        assert images(0.5, 0) == images(0.5, 0) != images(0.5, 1)
        assert made(kind, clean_fraction=0.25).training_images(data, 0).labels.bincount().tolist() == [4, 4, 4]

    def test_the_trials_seed_does_not_choose_the_subset(self, kind: str) -> None:
        """Trials of one study share their subsets, whatever their seeds."""
        parameters = inspect.signature(Defense.training_images).parameters
        assert list(parameters) == ["self", "clean_set", "subset_seed"]

    def test_it_only_trains_on_its_fraction(self, kind: str) -> None:
        epochs = run(made(kind, clean_fraction=0.25, batch_size=64))[1]
        assert epochs[-1].images == epochs[-1].steps * 12

    @pytest.mark.parametrize("fraction", [0, -0.5, 1.01])
    def test_a_fraction_that_is_no_share_is_refused(self, kind: str, fraction: float) -> None:
        with pytest.raises(BadInput, match="clean_fraction: expected above 0, at most 1, got"):
            made(kind, clean_fraction=fraction)

    def test_every_field_that_must_be_positive_refuses_zero(self, kind: str) -> None:
        optional = {"momentum", "weight_decay", "scope", "clean_fraction"}
        for field in dataclasses.fields(DEFENSES[kind]):
            if field.name not in optional:
                with pytest.raises(BadInput, match=f"defense: {field.name}: expected"):
                    made(kind, **{field.name: 0})
        for name in ("momentum", "weight_decay"):
            with pytest.raises(BadInput, match=f"defense: {name}: expected a number of at least 0, got -0.1"):
                made(kind, **{name: -0.1})

    def test_it_goes_to_yaml_and_back(self, kind: str) -> None:
        defense = made(kind)
        assert build(DEFENSES, describe(defense), where="defense") == defense

    def test_it_is_handed_nothing_of_the_attacker(self, kind: str) -> None:
        names = {f.name for f in dataclasses.fields(DefenderView)}
        assert names == {"model", "fresh_model", "clean_set", "training_set", "augment"}


@pytest.mark.parametrize(("kind", "preset"), [(kind, name) for kind in PRESETS for name in PRESETS[kind]])
def test_a_published_setting_is_of_its_kind_and_goes_to_json_and_back(kind: str, preset: str) -> None:
    defense = PRESETS[kind][preset]
    assert type(defense) is DEFENSES[kind]
    assert reference(f"{kind}:{preset}") is defense
    assert build(DEFENSES, describe(defense), where="x") == defense
    assert defense.clean_fraction == 1


def test_a_references_name_without_preset_means_the_first() -> None:
    assert reference("super_fine_tuning") is PRESETS["super_fine_tuning"]["paper"]
    assert reference("fine_tuning") is PRESETS["fine_tuning"]["backdoorbench"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("super_finetuning", "references: unknown defense 'super_finetuning'; did you mean 'super_fine_tuning'"),
        ("super_fine_tuning:papers", "'super_fine_tuning' has no preset 'papers'; did you mean 'paper'"),
        ("", "references: unknown defense ''"),
    ],
)
def test_an_unknown_reference_is_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        reference(name)


def test_fine_tuning_of_the_head_leaves_the_body_untouched() -> None:
    state, _ = run(made("fine_tuning", scope="head"))
    head = TINY.build(0).head_name
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, SUSPECT[name])}
    assert changed == {f"{head}.weight", f"{head}.bias"}
    with pytest.raises(BadInput, match=r"defense.scope: got 'heads'; did you mean 'head'"):
        made("fine_tuning", scope="heads")


def test_fine_tuning_as_published() -> None:
    defense = PRESETS["fine_tuning"]["backdoorbench"]
    assert describe(defense) == {
        "kind": "fine_tuning",
        "clean_fraction": 1.0,
        "lr": 0.01,
        "epochs": 100,
        "batch_size": 256,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "scope": "whole",
    }
    assert isinstance(defense, FineTuning)
    schedule, steps = defense.plan(2500)
    assert steps == 1000
    assert [schedule(s) for s in (0, 500, 1000)] == pytest.approx([0.01, 0.005, 0])
