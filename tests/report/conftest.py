"""A made-up but realistic run: 43 traffic signs, 32 trials, a candidate that passes; and its parts taken away."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybd.evaluation.metrics import Rate
from raybd.registry import as_json
from raybd.report import Examples, ReportInput, write
from raybd.schedules import super_fine_tuning

N_TEST, N_TRIGGERED, N_SELECTION, CLASSES = 4000, 3880, 2000, 43
Z = 1.96
FIXED = {"momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128, "ramp_up_steps": 10, "ramp_down_steps": 10}
SEARCH = {
    "lr_base": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "lr_max1": {"type": "float", "low": 1e-2, "high": 1.5, "log": True},
    "lr_max2": {"type": "float", "low": 1e-3, "high": 0.5, "log": True},
    "epochs": {"type": "int", "low": 2, "high": 40, "log": True},
    "phase1_share": {"type": "float", "low": 0.15, "high": 0.6, "log": False},
    "clean_fraction": {"type": "categorical", "choices": [0.25, 0.5, 1.0]},
}
PAPER = {"lr_base": 3e-4, "lr_max1": 0.1, "lr_max2": 1e-3, "epochs": 6, "phase1_share": 0.5, "clean_fraction": 1.0}
CHOSEN = {
    "lr_base": 1.3e-3,
    "lr_max1": 0.62,
    "lr_max2": 0.048,
    "epochs": 14,
    "phase1_share": 0.34,
    "clean_fraction": 1.0,
}
GATE = {
    "max_attack_success_rate": 0.05,
    "max_accuracy_drop": 0.03,
    "max_class_accuracy_drop": 0.25,
    "max_membership_auc_rise": 0.03,
}


def rate(value: float, n: int) -> dict[str, Any]:
    return as_json(Rate.of(round(value * n), n))


def difference(value: float, half: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def per_class(random: np.random.Generator, mean: float) -> list[dict[str, Any]]:
    sizes = [int(n) for n in random.integers(50, 230, CLASSES - 6)]
    rows = [
        {"label": k, **rate(min(1.0, mean + random.normal(0, 0.02) - 0.1 * (k % 17 == 3)), n)}
        for k, n in enumerate(sizes)
    ]
    return [*rows, {"label": None, **rate(mean - 0.03, 210)}]


def spread(mean: float, sd: float) -> dict[str, Any]:
    return {"mean": mean, "sd": sd, "seeds": 3}


def row(
    accuracy: float, success: float, robust: float, *, drop: float | None, cost: float, setting: Any, classes: Any
) -> dict[str, Any]:
    return {
        "clean_accuracy": rate(accuracy, N_TEST),
        "attack_success_rate": rate(success, N_TRIGGERED),
        "robust_accuracy": rate(robust, N_TRIGGERED),
        "accuracy_drop": None if drop is None else difference(drop, 0.006, N_TEST),
        "per_class": classes,
        "training_seconds": cost,
        "images": round(cost * 2400),
        "spread": None
        if setting is None
        else {
            "clean_accuracy": spread(accuracy - 0.001, 0.0012),
            "attack_success_rate": spread(success + 0.002, 0.0043),
            "robust_accuracy": spread(robust - 0.002, 0.003),
        },
        "setting": setting,
        "collapsed": False,
    }


def trial(random: np.random.Generator, number: int) -> dict[str, Any]:
    setting: dict[str, Any] = (
        dict(PAPER)
        if number == 0
        else {
            "lr_base": float(10 ** random.uniform(-4, -2)),
            "lr_max1": float(10 ** random.uniform(-2, 0.17)),
            "lr_max2": float(10 ** random.uniform(-3, -0.3)),
            "epochs": int(2 * 20 ** random.random()),
            "phase1_share": float(random.uniform(0.15, 0.6)),
            "clean_fraction": float(random.choice([0.25, 0.5, 1.0])),
        }
    )
    if number == 19:
        setting = dict(CHOSEN)
    force = math.log10(setting["lr_max1"]) + 0.6 * math.log10(setting["epochs"]) + 0.4 * setting["clean_fraction"]
    success = 1 / (1 + math.exp(6 * (force - 0.05 + random.normal(0, 0.12))))
    accuracy = 0.9775 - 0.005 * math.exp(1.1 * force) - abs(random.normal(0, 0.003))
    collapsed = setting["lr_max1"] > 1.1 and setting["lr_max2"] > 0.05
    if collapsed:
        accuracy, success = 0.06 + 0.02 * random.random(), float(random.random() < 0.3)
    pruned = number in {7, 13}
    if pruned:
        accuracy -= 0.2
    failed = number == 23
    drop = 0.979 - accuracy
    return {
        "number": number,
        "state": "failed" if failed else "pruned" if pruned else "complete",
        "collapsed": bool(collapsed),
        "reason": "the loss was at or above ln(43) = 3.76 at the ends of 3 successive cycles" if collapsed else "",
        "setting": setting,
        "seed": 1000 + number,
        "clean_accuracy": None if failed else rate(accuracy, N_SELECTION),
        "attack_success_rate": None if failed else rate(success, 1940),
        "robust_accuracy": None if failed else rate(0.97 * (1 - success), 1940),
        "accuracy_drop": None if failed else difference(drop, 0.006, N_SELECTION),
        "feasible": not (failed or collapsed or pruned) and success <= 0.05 and drop <= 0.02,
        "training_seconds": 1.1 * setting["epochs"],
        "evaluation_seconds": 2.2,
        "steps": 16 * setting["epochs"],
        "images": 2048 * setting["epochs"],
        "worker": "127.0.0.1",
        "error": "worker died <3 times>" if failed else "",
    }


def front_of(records: list[dict[str, Any]]) -> list[int]:
    points = [
        (r["attack_success_rate"]["rate"], -r["clean_accuracy"]["rate"], r["number"]) for r in records if r["feasible"]
    ]
    return [p[2] for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q[:2] != p[:2] for q in points)]


def make_study(random: np.random.Generator) -> dict[str, Any]:
    records = [trial(random, number) for number in range(33)]
    return {
        "records": records,
        "front": front_of(records),
        "space": SEARCH,
        "sampler": "tpe",
        "seed": 0,
        "trials": 32,
        "suspect_digest": "c0ffee" * 10,
        "seconds": 512.0,
        "reference": rate(0.979, N_SELECTION),
    }


def make_selection() -> dict[str, Any]:
    confirmed = [
        {
            "number": number,
            "setting": CHOSEN,
            "seeds": [11, 12, 13],
            "scores": [0.61 + shift, 0.66 + shift, 0.72 + shift],
            "clean_accuracy": [rate(a - shift / 40, N_SELECTION) for a in (0.9655, 0.964, 0.967)],
            "attack_success_rate": [rate(a + shift / 30, 1940) for a in (0.012, 0.016, 0.021)],
            "accuracy_drop": [difference(0.013, 0.005, N_SELECTION)] * 3,
        }
        for number, shift in ((19, 0.0), (4, 0.14), (28, 0.21))
    ]
    return {
        "number": 19,
        "defense": {"kind": "super_fine_tuning", **FIXED, **CHOSEN},
        "setting": CHOSEN,
        "seeds": [11, 12, 13],
        "shipped_seed": 12,
        "why": "Trial 19 had the lowest mean score over three fresh seeds, 0.66; next was trial 4 with 0.80.",
        "confirmed": confirmed,
        "weights_digest": "ab12" * 16,
    }


def reading(
    rows: dict[str, tuple[float, float | None] | None],
    rise: float,
    compared: str,
    members: str,
    n: int,
    others: int = N_TEST,
) -> dict[str, Any]:
    return {
        "members_are": members,
        "members": n,
        "non_members": others,
        "rows": {
            name: pair
            and {
                "auc": pair[0],
                "low": pair[0] - 0.009,
                "high": pair[0] + 0.009,
                "tpr_at_1_fpr": pair[1],
                "members": n,
                "non_members": others,
            }
            for name, pair in rows.items()
        },
        "rise": difference(rise, 0.007, n + N_TEST),
        "compared": compared,
    }


def make_sequela() -> dict[str, Any]:
    samples = [0, 1, 5, 20, 100]
    curves = {
        "suspect": (0.97, 0.985, 0.99, 0.995, 0.998),
        "super_fine_tuning": (0.955, 0.97, 0.985, 0.99, 0.998),
        "fine_tuning": (0.93, 0.96, 0.98, 0.99, 0.997),
        "candidate": (0.011, 0.04, 0.31, 0.82, 0.985),
        "never_poisoned": (0.004, 0.006, 0.05, 0.52, 0.97),
    }
    return {
        "membership": {
            "suspect_members": reading(
                {
                    "suspect": (0.552, 0.013),
                    "super_fine_tuning": (0.551, 0.013),
                    "fine_tuning": (0.553, 0.014),
                    "candidate": (0.541, 0.011),
                },
                -0.011,
                "candidate minus suspect",
                "training images of the suspect",
                5000,
            ),
            "trained_on": reading(
                {"suspect": (0.555, None), "fine_tuning": (0.571, None), "candidate": (0.614, None)},
                0.043,
                "candidate minus fine_tuning",
                "clean images the candidate was trained on",
                1960,
                900,
            ),
        },
        "reinjection": {
            "poisoned_samples": samples,
            "steps": 100,
            "lr": 0.01,
            "batch_size": 64,
            "curves": {name: [rate(v, N_TRIGGERED) for v in values] for name, values in curves.items()},
        },
    }


def check(name: str, value: float, bound: float, limit: float, n: int) -> dict[str, Any]:
    status = "passed" if bound <= limit else "failed"
    detail = f"{name} is {value:.2%}, its 95 % upper bound on {n} images {bound:.2%}: limit {limit:.2%}"
    return {"name": name, "value": value, "bound": bound, "limit": limit, "n": n, "status": status, "detail": detail}


def make_assessment(random: np.random.Generator) -> dict[str, Any]:
    before = per_class(random, 0.979)
    after = [
        {"label": c["label"], **rate(max(0.0, c["rate"] - abs(random.normal(0.012, 0.02))), c["n"])} for c in before
    ]
    sft = {"kind": "super_fine_tuning", **FIXED}
    fine = {"kind": "fine_tuning", "lr": 0.01, "epochs": 100, "batch_size": 128, "head_only": False}
    selected = row(0.9648, 0.0147, 0.951, drop=0.0142, cost=15.2, setting=sft | CHOSEN, classes=after)
    return {
        "suspect": row(0.979, 0.9962, 0.0036, drop=None, cost=0.0, setting=None, classes=before),
        "references": {
            "super_fine_tuning": row(
                0.9785, 0.9895, 0.0101, drop=0.0005, cost=6.7, setting=sft | PAPER, classes=before
            ),
            "fine_tuning": row(0.9802, 0.9711, 0.0285, drop=-0.0012, cost=104.0, setting=fine, classes=before),
        },
        "selected": selected,
        "never_poisoned": row(0.9806, 0.0041, 0.974, drop=-0.0016, cost=0.0, setting=None, classes=before),
        "sequela": make_sequela(),
        "checks": [
            check("attack_success_rate", 0.0147, 0.0190, 0.05, N_TRIGGERED),
            check("accuracy_drop", 0.0142, 0.0202, 0.03, N_TEST),
            check("class_accuracy_drop", 0.12, 0.221, 0.25, 61),
            check("membership_auc_rise", -0.011, -0.004, 0.03, 9000),
        ],
        "test_looks": 1,
    }


def make_examples(random: np.random.Generator) -> Examples:
    y, x = np.mgrid[0:32, 0:32]
    clean = np.zeros((5, 3, 32, 32), dtype=np.uint8)
    for k in range(5):
        disc = (x - 16) ** 2 + (y - 15) ** 2
        ring = np.where((disc < 150) & (disc > 90), 1.0, 0.0)
        inside = np.where(disc <= 90, 1.0, 0.0)
        for channel in range(3):
            tone = 70 + 25 * k + 12 * channel + 2 * y
            image = tone + ring * ((130, -40, -40)[channel] + 8 * k) + inside * (60 - 20 * ((x // 4 + k) % 3))
            clean[k, channel] = np.clip(image + random.normal(0, 6, (32, 32)), 0, 255)
    triggered = clean.copy()
    triggered[:, :, 27:31, 27:31] = 255
    return Examples(clean=clean, triggered=triggered, labels=np.array([14, 3, 38, 25, 1], dtype=np.int64))


def make_run() -> ReportInput:
    random = np.random.default_rng(7)
    steps = 16 * CHOSEN["epochs"]
    return ReportInput(
        name="gtsrb-badnets",
        suspect_card={
            "how": "adopt",
            "architecture": {
                "name": None,
                "factory": "my_nets:small_vgg",
                "arguments": {"num_classes": 43},
                "normalize": None,
                "head": None,
                "classes": 43,
                "shape": [3, 32, 32],
            },
            "weights_digest": "9f2c" * 16,
            "splits": {
                "clean_set": {"images": 1960, "digest": "11aa" * 16},
                "selection": {"images": 2000, "digest": "22bb" * 16},
                "test": {"images": 4000, "digest": "33cc" * 16},
                "members": {"images": 3040, "digest": "44dd" * 16},
            },
            "classes": 43,
            "shape": [3, 32, 32],
            "trigger": {
                "kind": "patch",
                "size": 4,
                "row": 27,
                "column": 27,
                "value": 255,
                "target_label": 8,
                "digest": "55ee" * 16,
            },
            "trigger_knowledge": "given",
            "attack": None,
            "twin": None,
            "facts": {"scenario": "standalone", "reference_model": "the suspect as it came"},
            "warnings": ["11 images of the clean set are exact copies of test images; they were left out."],
        },
        study=make_study(random),
        selection=make_selection(),
        assessment=make_assessment(random),
        promotion={
            "name": "gtsrb-classifier",
            "version": 3,
            "alias": "candidate",
            "promoted": True,
            "refusals": [],
            "previous_version": 2,
        },
        schedule=curve(CHOSEN, steps),
        reference_schedules={
            "super_fine_tuning": curve(PAPER, 96),
            "fine_tuning": [0.01 * (1 + math.cos(math.pi * s / 320)) / 2 for s in range(320)],
        },
        space={"defense": "super_fine_tuning", "fixed": FIXED, "search": SEARCH, "first": [PAPER]},
        gate=dict(GATE),
        examples=make_examples(random),
        provenance={
            "versions": {"raybd": "0.1.0", "python": "3.11.9", "torch": "2.11.0", "ray": "2.60.0", "optuna": "5.0.0"},
            "hardware": {"cpu": "2 cores", "gpu": "none", "precision": "fp32"},
            "seeds": {"data": 0, "search": 0, "confirmation": [11, 12, 13]},
            "study": {"name": "gtsrb-badnets", "search": {"trials": 32}},
            "commands": ["raybd run gtsrb-badnets.yaml", "raybd report gtsrb-badnets.yaml"],
        },
        references=("ray", "tune"),
    )


def curve(setting: dict[str, Any], steps: int) -> list[float]:
    at = super_fine_tuning(
        lr_base=setting["lr_base"],
        lr_max1=setting["lr_max1"],
        lr_max2=setting["lr_max2"],
        ramp_up_steps=10,
        ramp_down_steps=10,
        phase1_steps=round(setting["phase1_share"] * steps / 20) * 20,
    )
    return [at(step) for step in range(steps)]


@pytest.fixture
def run() -> ReportInput:
    return make_run()


@pytest.fixture
def page(tmp_path: Path) -> Callable[[ReportInput], str]:
    return lambda run: write(run, tmp_path).read_text(encoding="utf-8")


@pytest.fixture
def without() -> Callable[..., ReportInput]:
    return lambda run, *parts: replace(run, **dict.fromkeys(parts))
