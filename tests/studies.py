"""Studies small enough for a test: the demo's digits with little training, run in this process."""

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from raybd.settings import StudySettings, parse_study

SPACE = {
    "defense": "super_fine_tuning",
    "fixed": {"batch_size": 32, "ramp_up_steps": 8, "ramp_down_steps": 8, "lr_base": 1e-3, "phase1_share": 0.4},
    "search": {
        "lr_max1": {"type": "float", "low": 0.01, "high": 3.0, "log": True},
        "lr_max2": {"type": "float", "low": 0.005, "high": 0.05, "log": True},
        "epochs": {"type": "int", "low": 4, "high": 20},
        "clean_fraction": {"type": "categorical", "choices": [0.5, 1.0]},
    },
    "first": [{"lr_max1": 0.4, "lr_max2": 0.03, "epochs": 20, "clean_fraction": 1.0}],
}

STUDY: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "small_convnet"},
    "attack": {"kind": "badnets", "poison_ratio": 0.1, "target_label": 0, "size": 2},
    "training": {"epochs": 15, "lr": 0.05, "batch_size": 32},
    "data": {
        "source": "digits",
        "clean_set": {"from": "train", "size": 250},
        "selection": {"from": "train", "size": 400},
        "test": {"from": "train", "size": 447},
    },
    "space": "space.yaml",
    "search": {"trials": 2, "max_accuracy_drop": 0.1},
    "references": ["super_fine_tuning"],
    "gate": {
        "max_attack_success_rate": 0.2,
        "max_accuracy_drop": 0.2,
        "max_class_accuracy_drop": 0.5,
        "max_membership_auc_rise": 0.2,
    },
    "tracking": {"model_name": "tiny", "alias": "candidate"},
    "resources": {"executor": "local"},
}


def study(folder: Path, *, space: dict[str, Any] = SPACE, **changes: Any) -> StudySettings:
    """Return `STUDY` in `folder`, whose sections are changed key by key; a change to None takes a key away."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
    whole = copy.deepcopy(STUDY)
    for key, value in changes.items():
        if value is None:
            whole.pop(key, None)
        else:
            whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
    return parse_study(whole, folder=folder)


def adopting(folder: Path, **changes: Any) -> StudySettings:
    """Return `study` with a suspect from outside in place of the attack; its network is the same unless changed."""
    patch = {"kind": "patch", "size": 2, "target_label": 0}
    given = {"trigger": patch, "data": {"members": {"from": "train"}}} | changes
    return study(folder, model=None, attack=None, training=None, **given)


def card(runs: Path, word: str, name: str = "tiny") -> Any:
    return json.loads((runs / name / word / "card.json").read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
