"""Every manifest of deploy/ is well formed and agrees with the others, with constraints.txt and with raybd itself."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from raybd.settings import load_study
from tests.deploy import commands, forms, machines, sense
from tests.deploy.manifests import ROOT, Deploy

CHECKS = [
    forms.kubernetes,
    forms.kuberay,
    forms.compose,
    forms.helm,
    forms.ray_up,
    forms.shell,
    sense.versions,
    sense.dockerfile,
    sense.references,
    sense.slots,
    sense.hosts,
    sense.one_cluster,
    sense.security,
    sense.ports,
    sense.secrets,
    machines.scale,
    machines.stores,
    machines.ray_up,
    machines.runs,
    commands.runbook,
    commands.backup,
    commands.manifests,
]
DEPLOY = Deploy(folder=ROOT / "deploy")
STUDIES = list(DEPLOY.studies())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.__module__.rpartition('.')[2]}-{check.__name__}")
def test_nothing_is_wrong(check: Callable[[Deploy], list[str]]) -> None:
    assert check(DEPLOY) == []


@pytest.mark.skipif(
    "RAYBD_KUBERAY_CRDS" not in os.environ, reason="RAYBD_KUBERAY_CRDS names no folder of KubeRay's CRDs"
)
def test_the_real_definitions_of_kuberay_accept_the_manifests() -> None:
    assert forms.kuberay_crds(DEPLOY, Path(os.environ["RAYBD_KUBERAY_CRDS"])) == []


@pytest.mark.parametrize("files", [files for _, files in STUDIES], ids=[where for where, _ in STUDIES])
def test_every_study_is_one_that_raybd_reads(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    study = load_study(str(tmp_path / "study.yaml"))
    assert study.name == yaml.safe_load(files["study.yaml"])["name"]
    assert study.cluster.storage == "s3://raybd/runs"


def test_a_job_is_found_by_the_name_of_its_study() -> None:
    (study,) = [yaml.safe_load(files["study.yaml"]) for where, files in STUDIES if where.startswith("kuberay")]
    assert DEPLOY.job["spec"]["metadata"] == {"raybd": study["name"]}


def test_the_example_factory_builds_the_network_that_its_study_describes() -> None:
    ((_, files),) = [each for each in STUDIES if "my_nets.py" in each[1]]
    scope: dict[str, Callable[..., torch.nn.Module]] = {}
    exec(files["my_nets.py"], scope)
    arguments = yaml.safe_load(files["study.yaml"])["suspect"]["arguments"]
    assert scope["small_vgg"](**arguments)(torch.zeros(2, 3, 32, 32)).shape == (2, 43)


def test_every_file_is_short_and_says_why_it_is_so() -> None:
    long = {name: lines for name in DEPLOY.files if (lines := len(DEPLOY.text(name).splitlines())) > 300}
    bare = [
        name for name in DEPLOY.files if name.endswith((".yaml", ".sh", ".sbatch")) and "#" not in DEPLOY.text(name)
    ]
    assert long == {}
    assert bare == []
