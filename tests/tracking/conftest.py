"""What the tracking tests share: a migrated database to copy, a small net and plausible records."""

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from raybd.tracking import Tracker
from raybd.tracking.client import connect


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """A fresh SQLite file takes MLflow seconds of migrations; a copy of this one takes none."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def run_dir(tmp_path, migrated, monkeypatch) -> Path:
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    shutil.copyfile(migrated, folder / "mlflow.db")
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


@pytest.fixture
def tracker(run_dir) -> Tracker:
    return Tracker(None, run_dir, "demo")


@pytest.fixture
def closed_port() -> str:
    """The address of a server that is down: nobody listens on this port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="session")
def net(tmp_path_factory) -> SimpleNamespace:
    """A net with batch normalisation, its weights file, its card and two example images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    model(torch.rand(16, 3, 8, 8))  # running statistics that are not the initial ones
    weights = tmp_path_factory.mktemp("net") / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), weights)
    example = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    return SimpleNamespace(
        model=model, weights=weights, given={"model": model, "weights": weights, "card": {"a": 1}, "example": example}
    )


def rate(value: float, n: int = 300) -> dict[str, Any]:
    return {"rate": value, "n": n, "low": value - 0.02, "high": value + 0.02}


def trial(number: int, **changes: Any) -> dict[str, Any]:
    """A trial as `search/card.json` holds it."""
    return {
        "number": number,
        "state": "complete",
        "collapsed": False,
        "reason": "",
        "setting": {"lr_max1": 0.1 + number, "epochs": 3},
        "seed": 17,
        "clean_accuracy": rate(0.9),
        "attack_success_rate": rate(0.05),
        "robust_accuracy": rate(0.8),
        "accuracy_drop": {"value": 0.01, "low": 0.0, "high": 0.03, "n": 300},
        "feasible": True,
        "training_seconds": 1.5,
        "evaluation_seconds": 0.25,
        "steps": 100,
        "images": 3200,
        "worker": "w0",
        "error": "",
        **changes,
    }


def row(value: float = 0.9) -> dict[str, Any]:
    """A row of the assessment as `assess/card.json` holds it."""
    return {
        "clean_accuracy": rate(value),
        "attack_success_rate": rate(0.05),
        "robust_accuracy": rate(0.8),
        "accuracy_drop": None,
        "per_class": [{"label": 0, "n": 60, "rate": 0.9, "low": 0.8, "high": 0.95}],
        "training_seconds": 2.0,
        "images": 640,
        "spread": {"clean_accuracy": {"mean": value, "sd": 0.01, "seeds": 3}},
        "setting": {"kind": "fine_tuning", "lr": 0.01},
        "collapsed": False,
    }


SEQUELA = {
    "membership": {
        "suspect_members": {
            "members_are": "the suspect's",
            "members": 100,
            "non_members": 100,
            "rows": {"candidate": {"auc": 0.55, "low": 0.5, "high": 0.6, "tpr_at_1_fpr": None}, "suspect": None},
            "rise": {"value": -0.01, "low": -0.05, "high": 0.03, "n": 100},
            "compared": "candidate minus suspect",
        },
        "trained_on": None,
    },
    "reinjection": {
        "poisoned_samples": [0, 1, 5],
        "steps": 50,
        "lr": 0.01,
        "batch_size": 32,
        "curves": {"suspect": [rate(0.9), rate(0.95), rate(0.99)]},
    },
}


def runs(tracker: Tracker, study: str = "demo") -> list[Any]:
    """All runs of the study, the parent first."""
    client = connect(tracker.uri)
    experiment = client.get_experiment_by_name(f"raybd/{study}")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return sorted(found, key=lambda run: (bool(run.data.tags.get("mlflow.parentRunId")), run.info.run_name))


def by_name(tracker: Tracker, study: str = "demo") -> dict[str, Any]:
    """All runs by name; no two may share one."""
    found = runs(tracker, study)
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found), [run.info.run_name for run in found]
    return named
