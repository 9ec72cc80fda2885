"""On what a study is computed: here, or where only the cluster's machines have the GPUs."""

from pathlib import Path

import pytest
import torch

from raybd.registry import BadInput
from raybd.stages import preparation
from tests.studies import study

ON_GPUS = {"executor": "ray", "gpus_per_trial": 0.5}


@pytest.fixture
def no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return monkeypatch


def test_a_head_without_a_gpu_computes_on_its_cpu_and_its_trials_on_the_clusters(
    no_gpu_here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_gpu_here.setenv("RAY_ADDRESS", "head:6379")
    ready = preparation.bench(study(tmp_path, resources=ON_GPUS))
    assert (ready.compute.device, ready.compute.precision) == ("cpu", "fp32")
    assert ready.trial_compute is not None
    assert (ready.trial_compute.device, ready.trial_compute.precision) == ("cuda", "bf16")
    exact = preparation.bench(study(tmp_path, resources=ON_GPUS | {"precision": "fp32"})).trial_compute
    assert exact is not None
    assert exact.precision == "fp32"


@pytest.mark.parametrize("resources", [ON_GPUS, ON_GPUS | {"executor": "local"}])
def test_without_a_cluster_the_gpu_has_to_be_here(
    no_gpu_here: pytest.MonkeyPatch, tmp_path: Path, resources: dict[str, object]
) -> None:
    if resources["executor"] == "local":
        no_gpu_here.setenv("RAY_ADDRESS", "head:6379")  # the local executor does not join it
    with pytest.raises(BadInput, match="gpus_per_trial: a GPU is asked for, but torch sees none"):
        preparation.bench(study(tmp_path, resources=resources))


def test_where_trials_compute_as_here_nothing_else_is_said(no_gpu_here: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_gpu_here.setenv("RAY_ADDRESS", "head:6379")
    assert preparation.bench(study(tmp_path, resources={"executor": "ray"})).trial_compute is None
