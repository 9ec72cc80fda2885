"""What both sides of the comparison are given: a suspect, its data splits, a search space, a list of settings."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from numpy.typing import NDArray

from raybd import pipeline
from raybd.artifacts import CARD, WEIGHTS
from raybd.data import ImageSet
from raybd.evaluation.metrics import read
from raybd.registry import BadInput, describe
from raybd.search.space import Space
from raybd.settings import StudySettings, load_study, parse_study
from raybd.stages import preparation, suspects
from raybd.triggers import Patch, Trigger
from raybd.yaml_file import read_yaml
from tests.benchmarks import third_party
from tests.benchmarks.stock_loop import AddPatch, Problem
from tests.benchmarks.stock_search import distributions

DIGITS_SIDE = 8
PLANTED = "planted"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A study that adopts its suspect from a file, so that the same weights meet every precision.

    Attributes:
        name: `gtsrb` or `digits`.
        study: the study file, without name, space, search and resources.
        folder: of the study.
        space: the search space, as a space file says it.
        max_accuracy_drop: the search's limit.
    """

    name: str
    study: Mapping[str, Any]
    folder: Path
    space: Mapping[str, Any]
    max_accuracy_drop: float

    def narrowed(self, epochs: tuple[int, int] | None) -> "Case":
        """Return this case with its range of epochs replaced; `first` goes if it no longer fits."""
        if epochs is None:
            return self
        low, high = epochs
        searched = {**self.space["search"], "epochs": {"type": "int", "low": low, "high": high, "log": True}}
        first = [setting for setting in self.space["first"] if low <= setting["epochs"] <= high]
        return Case(**{**vars(self), "space": {**self.space, "search": searched, "first": first}})

    def listed(self, count: int) -> "Case":
        """Return this case with a fixed list of `count` settings in front, drawn at random from its space."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        settings = [draws.ask(distributions(self.space["search"])).params for _ in range(count)]
        return Case(**{**vars(self), "space": {**self.space, "first": settings}})

    def settings(self, name: str, *, trials: int, seed: int, workers: int, precision: str) -> StudySettings:
        """Return the study raybd runs."""
        space = self.folder / f"{name}-space.yaml"
        space.write_text(yaml.safe_dump(dict(self.space), sort_keys=False), encoding="utf-8")
        searched = {"trials": trials, "sampler": "tpe", "seed": seed, "max_accuracy_drop": self.max_accuracy_drop}
        resources = {"precision": precision, "workers": workers}
        whole = {**self.study, "name": name, "space": space.name, "search": searched, "resources": resources}
        return parse_study(whole, folder=self.folder)

    def stock(self) -> tuple[Problem, "Limits"]:
        """Return the same suspect and images as a user has them, and the limits a feasible trial keeps."""
        settings = self.settings("stock", trials=1, seed=0, workers=1, precision="fp32")
        assert settings.suspect is not None
        bench = preparation.bench(settings)
        suspect = suspects.adopted(settings, bench, self.folder / settings.suspect.weights, "")
        model = suspect.model()
        splits = bench.splits
        problem = Problem(
            build=functools.partial(bench.architecture.build, 0),
            state=model.state_dict(),
            clean=as_arrays(splits.clean_set),
            selection=as_arrays(splits.selection),
            patch=add_patch(suspect.trigger),
            target=suspect.trigger.target_label,
            crop=bench.augment.crop,
        )
        accuracy = read(model, splits.selection, suspect.trigger, bench.compute).clean_accuracy.rate
        limits = Limits(
            max_attack_success_rate=settings.gate.max_attack_success_rate,
            min_clean_accuracy=accuracy - self.max_accuracy_drop,
        )
        return problem, limits


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What makes a trial feasible (design section 5), on the selection images."""

    max_attack_success_rate: float
    min_clean_accuracy: float

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial's metrics keep both limits; a billionth forgives the order of subtractions."""
        harmless = metrics["attack_success_rate"] <= self.max_attack_success_rate + 1e-9
        return harmless and metrics["clean_accuracy"] >= self.min_clean_accuracy - 1e-9


def as_arrays(images: ImageSet) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, h, w, c) and labels (n,) as NumPy arrays."""
    return images.images.permute(0, 2, 3, 1).contiguous().numpy(), images.labels.numpy()


def add_patch(trigger: Trigger) -> AddPatch:
    """Return the user's transform for a patch of raybd's.

    Raises:
        BadInput: for any other trigger, or a patch placed from the lower right.
    """
    if not isinstance(trigger, Patch) or trigger.image is not None or min(trigger.row, trigger.column) < 0:
        raise BadInput(f"trigger: expected a square patch at a row and column, got {trigger}")
    return AddPatch(trigger.size, trigger.row, trigger.column, trigger.value)


def gtsrb(data: Path, folder: Path) -> Case:
    """Return the third party's model of `third_party.py`, with shifts of up to 2 pixels; `data` holds its files."""
    study = third_party.write_study(folder, data=data, seed=0)
    return _case("gtsrb", read_yaml(study), folder)


def digits(folder: Path) -> Case:
    """Return the shipped demo, as the owner of its suspect would give it; `plant_digits` trains that one."""
    folder.mkdir(parents=True, exist_ok=True)
    demo = load_study("demo")
    assert demo.attack is not None
    trigger = describe(demo.attack.trigger())
    corner = DIGITS_SIDE - trigger["size"]  # the demo's patch lies in the lower right corner
    given = demo.resolved()
    adopting = {
        "suspect": {"name": given["model"]["name"], "weights": f"{PLANTED}/suspect/inject/{WEIGHTS}"},
        "trigger": {**{k: v for k, v in trigger.items() if v is not None}, "row": corner, "column": corner},
        "gate": {**given["gate"], "max_membership_auc_rise": None},
        "references": [],
        "tracking": {"model_name": "stock-digits"},
    }
    keep = ("scenario", "data", "augment", "space", "search")
    return _case("digits", {**{key: given[key] for key in keep}, **adopting}, folder)


def plant_digits(folder: Path) -> None:
    """Train the demo's suspect in `folder`, once, in fp32; all rows then adopt it like anybody's."""
    demo = load_study("demo").resolved()
    resources = {"precision": "fp32", "executor": "local"}
    study = parse_study({**demo, "name": "suspect", "resources": resources}, folder=folder)
    if not (folder / PLANTED / "suspect" / "inject" / CARD).is_file():
        pipeline.inject(study, runs=folder / PLANTED)


def _case(name: str, study: Mapping[str, Any], folder: Path) -> Case:
    space = Space.load(study["space"], folder).describe()
    drop = study["search"]["max_accuracy_drop"]
    kept = {key: value for key, value in study.items() if key not in ("name", "space", "search", "resources")}
    return Case(name=name, study=kept, folder=folder.absolute(), space=space, max_accuracy_drop=drop)


def cpu_features() -> dict[str, bool]:
    """Return which of the instructions that speed bf16 up this CPU has."""
    with contextlib.suppress(AttributeError):  # private to torch, which has no public question for it
        return {"amx": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    return {}
