"""What a user can get wrong ends with a message that names it, exit 2, and the run folder as it was."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from raybd.cli import app

NETS = '''"""A user's own file: one small network, and three things that are none."""

import torch
from torch import nn


def linear(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def no_network(classes):
    return "a string"
'''
STUDY: dict[str, Any] = {
    "name": "tiny",
    "suspect": {"factory": "nets:linear", "arguments": {"classes": 3}, "weights": "suspect.safetensors"},
    "data": {
        "source": "data.npz",
        "clean_set": {"from": "train", "size": 30},
        "selection": {"from": "test", "size": 30},
        "members": {"from": "train"},
    },
    "trigger": {"kind": "patch", "size": 2, "target_label": 0},
    "space": "space.yaml",
    "search": {"trials": 1, "max_accuracy_drop": 0.5},
    "gate": {
        "max_attack_success_rate": 0.5,
        "max_accuracy_drop": 0.5,
        "max_class_accuracy_drop": 0.5,
        "max_membership_auc_rise": 0.5,
    },
    "resources": {"executor": "local"},
}
SPACE: dict[str, Any] = {
    "defense": "super_fine_tuning",
    "fixed": {"lr_base": 1e-3, "lr_max2": 1e-2, "epochs": 2, "phase1_share": 0.5, "batch_size": 30},
    "search": {"lr_max1": {"type": "float", "low": 0.01, "high": 1.0}},
    "first": [{"lr_max1": 0.1}],
}


def images(seed: int, count: int = 90, side: int = 8, classes: int = 3) -> tuple[Any, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)
    return pixels, np.arange(count) % classes


def write_npz(path: Path, side: int = 8) -> None:
    (x_train, y_train), (x_test, y_test) = images(0, side=side), images(1, side=side)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def write_part(path: Path, pixels: Any, labels: Any) -> None:
    np.savez(path, x_train=pixels, y_train=labels)


def weights() -> dict[str, torch.Tensor]:
    return {"1.weight": torch.zeros(3, 64), "1.bias": torch.zeros(3)}


def digest(folder: Path) -> str:
    """Of every file in `folder`: its path and its bytes."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return whole.hexdigest()


@dataclass(frozen=True)
class Home:
    """A user's folder with a good study, and a run folder in which its suspect lies."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def raybd(self, verb: str, study: dict[str, Any]) -> Result:
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(study), encoding="utf-8")
        return CliRunner().invoke(app, [verb, str(path), "--runs", str(self.runs)])

    def refused(self, study: dict[str, Any], verb: str = "adopt") -> str:
        """The message, with the exit code and the untouched run folder checked."""
        before = digest(self.runs)
        done = self.raybd(verb, study)
        assert done.exit_code == 2, done.output
        assert digest(self.runs) == before
        return done.stderr


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    (home.folder / "nets.py").write_text(NETS, encoding="utf-8")
    (home.folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    write_npz(home.folder / "data.npz")
    save_file(weights(), home.folder / "suspect.safetensors")
    done = home.raybd("adopt", STUDY)
    assert done.exit_code == 0, done.output
    return home


@pytest.fixture
def home(good: Home, tmp_path: Path) -> Home:
    """A copy to do wrong things in."""
    shutil.copytree(good.folder, tmp_path / "home")
    return Home(tmp_path / "home")


def changed(**changes: Any) -> dict[str, Any]:
    """The good study with dotted `changes`, `__` for a dot."""
    study: dict[str, Any] = yaml.safe_load(yaml.safe_dump(STUDY))
    for dotted, value in changes.items():
        place, *path = [study, *dotted.split("__")]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    return study


def test_the_good_study_is_good(home: Home) -> None:
    assert home.raybd("adopt", STUDY).exit_code == 0


def test_a_number_that_yaml_reads_as_text_is_a_number(home: Home) -> None:
    text = yaml.safe_dump(SPACE).replace("low: 0.01", "low: 1e-2")
    assert yaml.safe_load(text)["search"]["lr_max1"]["low"] == "1e-2"
    (home.folder / "space.yaml").write_text(text, encoding="utf-8")
    assert home.raybd("adopt", STUDY).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"data__sorce": "x"}, ["study.yaml: data.sorce", "did you mean 'source'"], id="unknown-key"),
        pytest.param({"search__seed": "one"}, ["search.seed", "integer", "got 'one'"], id="wrong-type"),
        pytest.param({"search__trials": 0}, ["search.trials", "got 0"], id="no-trials"),
        pytest.param({"data__clean_set__size": 0}, ["data.clean_set.size", "got 0"], id="empty-clean-set"),
        pytest.param({"data__classes": 2}, ["data.npz", "y_train", "expected 0..1", "got 2"], id="labels-outside"),
        pytest.param({"suspect__state_dict_key": "net"}, ["suspect.state_dict_key", "'net'"], id="state-dict-key"),
        pytest.param({"suspect__weights": "none.pth"}, ["suspect.weights", "none.pth"], id="no-weights-file"),
        pytest.param(
            {"suspect__factory": "os:system"}, ["suspect.factory", "'os'", "study's folder"], id="factory-elsewhere"
        ),
        pytest.param(
            {"suspect__factory": "nets:no_network"}, ["suspect.factory", "nn.Module", "str"], id="factory-no-module"
        ),
        pytest.param({"suspect__factory": "nets:liner"}, ["suspect.factory", "'liner'"], id="factory-no-function"),
        pytest.param({"trigger__size": 9}, ["trigger", "9 pixels", "8 x 8"], id="trigger-too-large"),
        pytest.param({"trigger__target_label": 3}, ["trigger.target_label", "0 to 2", "got 3"], id="no-such-target"),
        pytest.param(
            {"data__members": None}, ["gate.max_membership_auc_rise", "data.members is null"], id="members-unknown"
        ),
        pytest.param({"name": "tiny", "data__seed": 1}, ["runs/tiny", "different study"], id="another-study"),
        pytest.param({"data__source": "nowhere.npz"}, ["nowhere.npz", "no such file"], id="no-data"),
    ],
)
def test_a_wrong_value_in_the_study(home: Home, changes: dict[str, Any], said: list[str]) -> None:
    message = home.refused(changed(**changes))
    assert [words for words in said if words not in message.replace("\n", " ")] == [], message


def test_a_first_setting_outside_its_space(home: Home) -> None:
    space = {**SPACE, "first": [{"lr_max1": 9.0}]}
    (home.folder / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    message = home.refused(STUDY)
    assert "space.yaml: first[0].lr_max1: 9.0 lies outside" in message


def test_a_clean_set_of_one_class(home: Home) -> None:
    pixels, _ = images(2)
    write_part(home.folder / "clean.npz", pixels, np.full(len(pixels), 1))
    message = home.refused(changed(data__clean_set={"from": "clean.npz"}))
    assert "data.clean_set" in message
    assert "label 1" in message


def test_a_clean_set_without_images(home: Home) -> None:
    write_part(home.folder / "clean.npz", *images(2, count=0))
    assert "clean.npz" in home.refused(changed(data__clean_set={"from": "clean.npz"}))


def test_labels_of_a_file_of_ones_own_outside_the_classes(home: Home) -> None:
    write_part(home.folder / "clean.npz", *images(2, classes=5))
    message = home.refused(changed(data__clean_set={"from": "clean.npz"}))
    assert "clean.npz" in message
    assert "expected 0..2" in message


def test_splits_that_overlap(home: Home) -> None:
    pixels, labels = images(2)
    write_part(home.folder / "clean.npz", pixels, labels)
    write_part(home.folder / "selection.npz", pixels[:40], labels[:40])
    message = home.refused(changed(data__clean_set={"from": "clean.npz"}, data__selection={"from": "selection.npz"}))
    assert "overlapping splits" in message


def test_splits_that_take_more_than_there_is(home: Home) -> None:
    assert "data: " in home.refused(changed(data__selection={"from": "test", "size": 91}))


def test_an_image_size_the_model_cannot_take(home: Home) -> None:
    write_npz(home.folder / "data.npz", side=5)
    message = home.refused(STUDY)
    assert "suspect" in message
    assert "5 x 5" in message


def without_bias(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"1.weight": state["1.weight"]}


def with_more(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "2.weight": torch.zeros(3)}


def of_other_shape(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "1.bias": torch.zeros(4)}


@pytest.mark.parametrize(
    ("change", "named"), [(without_bias, "1.bias"), (with_more, "2.weight"), (of_other_shape, "1.bias")]
)
def test_weights_that_do_not_fit(
    home: Home, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], named: str
) -> None:
    save_file(change(weights()), home.folder / "suspect.safetensors")
    message = home.refused(STUDY)
    assert "suspect.weights" in message
    assert named in message


def test_a_checkpoint_that_needs_unpickling_is_not_opened_and_told_how_to_convert(home: Home) -> None:
    torch.save(nn.Linear(2, 2), home.folder / "whole.pth")
    message = home.refused(changed(suspect__weights="whole.pth"))
    assert "suspect.weights: whole.pth" in message
    assert "safetensors" in message


def test_an_unknown_trigger_is_taken_in_but_steers_no_search(home: Home) -> None:
    study = {**STUDY, "name": "untriggered", "trigger": "unknown"}
    assert home.raybd("adopt", study).exit_code == 0
    message = home.refused(study, "search")
    assert "trigger" in message
    assert "unknown" in message


def test_a_run_folder_that_is_not_raybds(home: Home) -> None:
    (home.runs / "theirs").mkdir()
    (home.runs / "theirs" / "thesis.txt").write_text("precious", encoding="utf-8")
    assert "theirs" in home.refused({**STUDY, "name": "theirs"})


def test_a_stage_before_its_time(home: Home) -> None:
    assert "tiny" in home.refused(STUDY, "select")
    assert "no such run" in home.refused({**STUDY, "name": "fresh"}, "search")


def test_nothing_is_made_for_a_study_that_is_refused(home: Home) -> None:
    home.refused({**changed(trigger__target_label=3), "name": "fresh"})
    assert not (home.runs / "fresh").exists()


INJECTED = {
    **{key: value for key, value in STUDY.items() if key not in ("suspect", "trigger")},
    "data": {key: value for key, value in STUDY["data"].items() if key != "members"},
    "model": {"factory": "nets:linear", "arguments": {"classes": 3}},
    "attack": {"kind": "badnets", "target_label": 0, "size": 2},
    "training": {"epochs": 1, "lr": 0.05, "batch_size": 30},
}


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        pytest.param("model", {"factory": "nets:liner"}, "model.factory: module 'nets' has no", id="factory"),
        pytest.param("model", {"arguments": {"widht": 3}}, "model.arguments: nets:linear failed on", id="arguments"),
        pytest.param("model", {"head": "9"}, "model.head: no linear layer '9'", id="head"),
        pytest.param(
            "model", {"normalize": {"mean": [0.5], "std": [0]}}, "model.normalize.std: expected numbers", id="normalize"
        ),
        pytest.param("attack", {"size": 9}, "attack: a patch of 9 pixels", id="patch"),
        pytest.param("attack", {"target_label": 3}, "attack.target_label: expected 0 to 2, got 3", id="target"),
        pytest.param("attack", {"poison_ratio": 0.001}, "attack.poison_ratio: 0.001 of", id="ratio"),
    ],
)
def test_a_study_that_injects_hears_of_the_keys_it_has(home: Home, section: str, values: Any, said: str) -> None:
    """It has no `suspect` and no `trigger`: the sections are `model` and `attack` there."""
    assert said in home.refused({**INJECTED, section: {**INJECTED[section], **values}}, "inject").replace("\n", " ")


@pytest.mark.parametrize(
    ("suspect", "said"),
    [({"arguments": {"widht": 3}}, "suspect.arguments: nets:linear failed on"), ({"head": "9"}, "suspect.head: no")],
)
def test_a_study_that_adopts_hears_of_the_keys_it_has(home: Home, suspect: dict[str, Any], said: str) -> None:
    assert said in home.refused(changed(suspect={**STUDY["suspect"], **suspect})).replace("\n", " ")
