"""Transfer and encoder, in process: what the user ships, what the trigger pulls to, and that adopting does the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from raybd import pipeline
from raybd.artifacts import Suspect
from raybd.attacks import BadNets
from raybd.evaluation.metrics import read
from raybd.models import Architecture
from raybd.registry import BadInput
from raybd.scenarios import pulled_label, transplanted
from raybd.settings import StudySettings, parse_study
from raybd.stages import preparation
from raybd.training import Epoch
from raybd.triggers import Patch
from raybd.weights import load_into, load_weights, save_weights, state_of, weights_digest
from tests.digits import CPU, DIGITS, splits, victim
from tests.studies import SPACE

REMAINDERS = Architecture(name="small_resnet", classes=3, shape=(1, 8, 8), head_from="fresh", upstream_classes=10)
"""The network of `tests.digits` under another task: a digit's remainder when it is divided by three."""


def write_digits(folder: Path) -> None:
    """Two tasks on the same images: the digits, and their remainders."""
    digits, cut = load_digits(), 1000
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for name, labels in (("digits", digits.target), ("remainders", digits.target % 3)):
        parts = {"x_train": images[:cut], "x_test": images[cut:], "y_train": labels[:cut], "y_test": labels[cut:]}
        np.savez(folder / f"{name}.npz", **parts)


STUDY: dict[str, Any] = {
    "name": "moved",
    "scenario": "transfer",
    "model": {"name": "small_resnet"},
    "attack": {"kind": "badnets", "target_label": 0},
    "training": {"epochs": 3, "lr": 0.05, "batch_size": 32},
    "upstream": {"source": "digits.npz", "images": 600},
    "data": {
        "source": "remainders.npz",
        "clean_set": {"from": "train", "size": 150},
        "selection": {"from": "test", "size": 200},
    },
    "space": "space.yaml",
    "search": {"trials": 1, "max_accuracy_drop": 0.9},
    "references": ["fine_tuning:head"],
    "gate": {
        "max_attack_success_rate": 0.99,
        "max_accuracy_drop": 0.99,
        "max_class_accuracy_drop": 0.99,
        "max_membership_auc_rise": None,
    },
    "tracking": {"model_name": "moved"},
    "resources": {"executor": "local"},
}


ADOPTED: dict[str, Any] = {
    **dict.fromkeys(("model", "attack", "training", "upstream")),
    "suspect": {"name": "small_resnet", "weights": "source.safetensors"},
    "trigger": {"kind": "patch"},
}
"""What changes where the model comes from outside; how many classes it had is not said yet."""


def study(folder: Path, **changes: Any) -> StudySettings:
    write_digits(folder)
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    whole = {k: v for k, v in (STUDY | changes).items() if v is not None}
    return parse_study(whole, folder=folder)


def test_a_transplanted_model_keeps_everything_but_its_head() -> None:
    source = victim().planted.model
    moved = transplanted(source, REMAINDERS, seed=1)
    images = torch.rand(5, 1, 8, 8)
    assert torch.allclose(moved.features(images), source.features(images), atol=1e-5)
    assert moved(images).shape == (5, 3)
    heads = [weights_digest(state_of(transplanted(source, REMAINDERS, seed=seed))) for seed in (1, 1, 2)]
    assert heads[0] == heads[1] != heads[2]


def test_networks_that_differ_beyond_the_head_are_refused() -> None:
    wider = Architecture(
        name="small_resnet", arguments={"width": 8}, classes=3, shape=(1, 8, 8), head_from="fresh", upstream_classes=10
    )
    with pytest.raises(BadInput, match=r"suspect: the network and the one it was trained as differ beyond the head"):
        transplanted(victim().planted.model, wider, seed=0)


def test_the_label_a_trigger_pulls_to_is_that_of_the_backdoor() -> None:
    for target in (0, 3):
        planted = victim(BadNets(target_label=target)).planted
        unaimed = planted.trigger.aimed_at(None)
        assert not unaimed.aimed
        assert pulled_label(planted.model, splits().selection, unaimed, CPU) == target


def test_a_transfer_runs_from_the_source_to_the_report(tmp_path: Path) -> None:
    settings = study(tmp_path)
    told: list[str] = []
    page = pipeline.run(settings, runs=tmp_path / "runs", on_training=lambda word, epoch: told.append(word))
    home = tmp_path / "runs" / "moved" / "inject"
    suspect = Suspect.load(home, preparation.bench(settings, home))
    assert page.is_file()
    assert set(told) == {"poisoned model", "never-poisoned twin", "reference model"}
    assert suspect.bench.trigger is not None
    assert suspect.trigger.target_label in {0, 1, 2}
    assert suspect.facts["scenario"] == "transfer"
    rates = {"clean_accuracy", "attack_success_rate", "robust_accuracy"}
    assert suspect.facts["upstream"].keys() == rates | {"poisoned", "covers"}
    assert suspect.facts["upstream"]["poisoned"] == 60
    assert suspect.reference is not None
    body = {name for name in suspect.state if not name.startswith("8.")}
    assert any(not torch.equal(suspect.state[name], suspect.reference[name]) for name in body), "all layers are tuned"
    assert suspect.members() is None
    text = page.read_text(encoding="utf-8")
    assert "the suspect was trained on another task&#39;s" in text
    assert "none of the user&#39;s are among them" in text


def test_an_encoder_runs_from_pre_training_to_the_report(tmp_path: Path) -> None:
    settings = study(
        tmp_path,
        scenario="encoder",
        attack={"kind": "bad_encoder", "target_label": 1, "size": 3, "epochs": 2},
        training={"epochs": 2, "batch_size": 64},
        references=["fine_tuning"],
    )
    told: list[str] = []
    page = pipeline.run(settings, runs=tmp_path / "runs", on_training=lambda word, epoch: told.append(word))
    home = tmp_path / "runs" / "moved" / "inject"
    suspect = Suspect.load(home, preparation.bench(settings, home))
    assert page.is_file()
    assert set(told) == {"backdoored model", "never-poisoned twin", "reference model"}
    assert suspect.trigger.target_label == 1, "the attacker's own label of the user's task, not a pulled one"
    assert suspect.facts["upstream"] == {"poisoned": None, "covers": None}, "each batch carried the trigger"
    assert (suspect.card()["poisoned"], suspect.card()["covers"]) == (0, 0), "of the user's own images"
    assert suspect.reference is not None
    moved = {name for name in suspect.state if not torch.equal(suspect.state[name], suspect.reference[name])}
    assert moved == {"8.weight", "8.bias"}, "the reference is the frozen encoder with a trained head"


def test_adopting_a_source_model_gives_what_planting_gave(tmp_path: Path) -> None:
    planted = victim().planted
    save_weights(state_of(planted.model), tmp_path / "source.safetensors")
    settings = study(tmp_path, **ADOPTED | {"upstream": {"classes": 10}})
    told: list[str] = []
    suspect = pipeline.adopt(settings, runs=tmp_path / "runs", on_training=lambda word, epoch: told.append(word))
    home = tmp_path / "runs" / "moved" / "adopt"
    again = Suspect.load(home, preparation.bench(settings, home))
    start = REMAINDERS.build(0)
    load_into(start, suspect.state)
    images = torch.rand(4, 1, 8, 8)
    assert torch.allclose(start.features(images), planted.model.features(images), atol=1e-5)
    assert set(told) == {"reference model"}
    assert again.digest == suspect.digest
    assert again.trigger == Patch(target_label=suspect.trigger.target_label)
    readings = read(suspect.model(), suspect.bench.splits.selection, suspect.trigger, CPU)
    assert readings.clean_accuracy.rate > 0.8, "the reference is a model of the user's own task"


@pytest.fixture
def nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training of this process fails at its first step."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a training")

    monkeypatch.setattr("raybd.training.descend", refuse)


@pytest.mark.usefixtures("nothing_trains")
def test_a_target_of_the_other_task_may_be_no_label_of_the_users(tmp_path: Path) -> None:
    """Label 9 of ten digits, and three classes downstream: what the trigger pulls to there is not known yet."""
    settings = study(tmp_path, attack={"kind": "badnets", "target_label": 9})
    assert pipeline.validate(settings)["trigger"] == "patch, what it pulls to is read by `raybd inject`"
    with pytest.raises(AssertionError, match="a training"):
        pipeline.inject(settings, runs=tmp_path / "runs")


@pytest.mark.usefixtures("nothing_trains")
def test_what_does_not_fit_the_images_is_refused_before_anything_trains(tmp_path: Path) -> None:
    settings = study(tmp_path, attack={"kind": "adaptive_blend", "target_label": 0, "pieces": 9, "poison_ratio": 0.1})
    for stage in (pipeline.validate, lambda s: pipeline.inject(s, runs=tmp_path / "runs")):
        with pytest.raises(BadInput, match=r"attack.pieces: 9 x 9 do not fit images of 8 x 8 pixels"):
            stage(settings)


@pytest.mark.usefixtures("nothing_trains")
def test_validating_names_a_trigger_that_is_learnt_when_planted(tmp_path: Path) -> None:
    settings = study(tmp_path, attack={"kind": "input_aware", "target_label": 0})
    assert pipeline.validate(settings)["trigger"] == "input_aware, learnt when it is planted"


@pytest.mark.usefixtures("nothing_trains")
@pytest.mark.parametrize("scenario", ["transfer", "encoder"])
class TestValidatingAnAdoptedModel:
    def settings(self, folder: Path, scenario: str, classes: int = 10) -> StudySettings:
        return study(folder, **ADOPTED | {"scenario": scenario, "upstream": {"classes": classes}})

    def test_nothing_is_trained_and_what_the_trigger_does_is_left_to_adopting(
        self, tmp_path: Path, scenario: str
    ) -> None:
        save_weights(state_of(DIGITS.build(0)), tmp_path / "source.safetensors")
        settings = self.settings(tmp_path, scenario)
        seen = pipeline.validate(settings)
        assert seen["warnings"] == []
        assert seen["trigger"] == "patch, what it pulls to is read by `raybd adopt`"
        with pytest.raises(AssertionError, match="a training"):
            pipeline.adopt(settings, runs=tmp_path / "runs")

    def test_weights_that_do_not_fit_are_found(self, tmp_path: Path, scenario: str) -> None:
        save_weights(state_of(DIGITS.build(0)), tmp_path / "source.safetensors")
        with pytest.raises(BadInput, match=r"they do not fit the model: of another shape: .*\(10, 64\) instead of \(7"):
            pipeline.validate(self.settings(tmp_path, scenario, classes=7))

    def test_a_model_that_cannot_be_moved_under_the_users_head_is_found(
        self, tmp_path: Path, scenario: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wider = replace(DIGITS, arguments={"width": 8})
        monkeypatch.setattr("raybd.stages.suspects.upstream_architecture", lambda settings, ready: wider)
        save_weights(state_of(wider.build(0)), tmp_path / "source.safetensors")
        with pytest.raises(BadInput, match="differ beyond the head"):
            pipeline.validate(self.settings(tmp_path, scenario))


def test_a_run_shows_the_training_of_an_adopted_models_reference_too(tmp_path: Path) -> None:
    class Heard(Exception):
        """Ends the run, whose other stages are not the point."""

    def hear(word: str, epoch: Epoch) -> None:
        assert word == "reference model"
        raise Heard

    save_weights(state_of(victim().planted.model), tmp_path / "source.safetensors")
    settings = study(tmp_path, **ADOPTED | {"upstream": {"classes": 10}})
    with pytest.raises(Heard):
        pipeline.run(settings, runs=tmp_path / "runs", on_training=hear)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attack": {"kind": "badnets", "goal": "all_to_all"}},
            "goal: all_to_all counts labels of the task a model was trained on, and means nothing under another",
        ),
        (
            ADOPTED | {"upstream": {"classes": 10}, "trigger": {"kind": "patch", "goal": "all_to_all"}},
            "goal: all_to_all counts labels of the task a model was trained on, and means nothing under another",
        ),
        ({"upstream": None}, "upstream.source: missing; scenario transfer plants the backdoor on another task's"),
        ({"scenario": "standalone"}, "upstream: not in scenario standalone, whose model stays at its task"),
        ({"scenario": "encoder"}, "attack.kind: badnets cannot be planted in scenario encoder, only in standalone and"),
        (
            {"gate": {**STUDY["gate"], "max_membership_auc_rise": 0.1}},
            "gate.max_membership_auc_rise: the suspect's members are images of another task; set this limit to null",
        ),
        (
            ADOPTED | {"upstream": {"classes": 10}, "data": {**STUDY["data"], "members": {"from": "train"}}},
            "data.members: the suspect's members are images of another task, not the user's; leave this key out",
        ),
        (
            ADOPTED,
            "upstream.classes: missing; how many did small_resnet have when it was trained",
        ),
        (
            ADOPTED | {"scenario": "standalone"},
            "trigger.target_label: missing",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_when_the_study_is_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        study(tmp_path, **changes)


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        (
            {"source": "digits", "size": 12},
            r"upstream.source: images are \(1, 12, 12\) .* those of data are \(1, 8, 8\)",
        ),
        (
            {"source": "digits.npz", "images": 5000},
            r"upstream.images: 5000 > 1000 images in the train part of digits.npz",
        ),
    ],
)
def test_another_tasks_images_that_do_not_fit_are_refused_before_anything_trains(
    tmp_path: Path, upstream: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        pipeline.inject(study(tmp_path, upstream=upstream), runs=tmp_path / "runs")


def test_a_network_without_a_head_belongs_into_the_encoder_scenario(tmp_path: Path) -> None:
    code = "from torch import nn\n\ndef features():\n    return nn.Sequential(nn.Conv2d(1, 7, 3), nn.Flatten())\n"
    (tmp_path / "my_encoder.py").write_text(code, encoding="utf-8")
    network = {"factory": "my_encoder:features", "classes": 3, "shape": (1, 8, 8), "folder": tmp_path}
    with pytest.raises(BadInput, match=r"one logit per class. An encoder without a head belongs in scenario"):
        Architecture(**network).build(0)
    with pytest.raises(BadInput, match=r"suspect.head: no linear layer"):
        Architecture(**network, head_from="fresh").build(0)
    headed = Architecture(**network, head_from="added").build(0)
    assert headed(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert headed.features(torch.rand(2, 1, 8, 8)).shape == (2, 7 * 36)


def test_what_an_encoder_gives_are_its_features_even_where_it_ends_in_a_linear_layer(tmp_path: Path) -> None:
    code = "from torch import nn\n\ndef features():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
    (tmp_path / "my_encoder.py").write_text(code, encoding="utf-8")
    network = {"factory": "my_encoder:features", "classes": 3, "shape": (1, 8, 8), "folder": tmp_path}
    images = torch.rand(2, 1, 8, 8)
    encoder = Architecture(**network, head_from="headless").build(0)
    assert torch.equal(encoder.features(images), encoder(images))
    moved = transplanted(encoder, Architecture(**network, head_from="added"), seed=0)
    assert torch.equal(moved.features(images), encoder(images))
    assert moved(images).shape == (2, 3)


def test_an_encoder_that_gives_maps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my_maps.py").write_text("from torch import nn\n\ndef maps():\n    return nn.Conv2d(1, 4, 3)\n")
    for head_from in ("headless", "added"):
        with pytest.raises(BadInput, match=r"an encoder gives features \(n, d\), this one gave \(2, 4, 6, 6\)"):
            Architecture(
                factory="my_maps:maps", classes=3, shape=(1, 8, 8), folder=tmp_path, head_from=head_from
            ).build(0)


def test_a_diverged_training_is_refused_and_no_figure_is_read_from_it(tmp_path: Path) -> None:
    settings = study(tmp_path, training={"epochs": 3, "lr": 1e12, "batch_size": 32})
    with pytest.raises(BadInput, match="training: the poisoned model collapsed"):
        pipeline.inject(settings, runs=tmp_path / "runs")


def test_stored_poisoned_images_must_be_those_of_the_card(tmp_path: Path) -> None:
    attack = {"kind": "trojan", "target_label": 0, "size": 2, "trigger_steps": 5, "epochs": 1}
    settings = study(tmp_path, attack=attack)
    suspect = pipeline.inject(settings, runs=tmp_path / "runs")
    home = tmp_path / "runs" / "moved" / "inject"
    again = Suspect.load(home, preparation.bench(settings, home))
    assert again.digest == suspect.digest
    assert again.trigger.digest((1, 8, 8)) == suspect.trigger.digest((1, 8, 8))
    assert again.made is not None
    assert suspect.made is not None
    assert again.made.digest() == suspect.made.digest() == suspect.facts["poisoned_digest"]
    held = load_weights(home / "poisoned.safetensors")
    save_weights(held | {"labels": 0 * held["labels"] + 1}, home / "poisoned.safetensors")
    with pytest.raises(BadInput, match=r"poisoned.safetensors: these are not the images of the card"):
        Suspect.load(home, preparation.bench(settings, home))
