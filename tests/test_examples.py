"""The planted transfer that the README shows: the study validates as written, and its backdoor carries over."""

from pathlib import Path

import pytest

from raybd import pipeline
from raybd.evaluation.metrics import read
from raybd.settings import load_study
from tests.digits import CPU
from tests.examples import planted_transfer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    planted_transfer.main(tmp_path)
    return tmp_path


def test_the_planted_transfer_is_a_study_that_can_be_planted(folder: Path) -> None:
    found = pipeline.validate(load_study(str(folder / "study.yaml")))
    assert sorted(path.name for path in folder.iterdir()) == ["first.npz", "last.npz", "study.yaml"]
    assert (found["clean set"], found["selection"], found["test"]) == (250, 200, 196)
    assert found["trigger"] == "patch, target label 2"
    assert found["warnings"] == []


@pytest.mark.slow
def test_its_backdoor_survives_the_user_s_own_fine_tuning(folder: Path) -> None:
    suspect = pipeline.inject(load_study(str(folder / "study.yaml")), runs=folder / "runs")
    readings = read(suspect.model(), suspect.bench.splits.selection, suspect.trigger, CPU)
    assert readings.attack_success_rate.rate > 0.9
    assert readings.clean_accuracy.rate > 0.9
    assert suspect.facts["twin"]["passed"], "what the trigger does to a never-poisoned twin is no backdoor"
    assert suspect.card()["warnings"] == []
