"""Planting, in process: when the never-poisoned twin's check is made, how often, and what becomes of a failed one."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from raybd.artifacts import Suspect
from raybd.defenses import FineTuning
from raybd.evaluation.twin import TwinCheck, check_twin
from raybd.registry import BadInput, as_json
from raybd.scenarios import Transfer
from raybd.settings import StudySettings
from raybd.stages import preparation, suspects
from raybd.training import Epoch
from tests import studies
from tests.stages import test_downstream as downstream

BRIEF = {"epochs": 1}
KNOWN = {"kind": "badnets"}
LEARNT = {"kind": "trojan", "trigger_steps": 5, "epochs": 1}


class Planting:
    """What was trained, in this order, and how often the twin was checked, while a suspect was planted."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.checks: list[TwinCheck] = []

    def __call__(self, settings: StudySettings) -> Suspect:
        ready = preparation.bench(settings)
        return suspects.injected(settings, ready, suspects.workshop(settings, ready, self._hear))

    def _hear(self, word: str, epoch: Epoch) -> None:
        self.heard.append(word)

    @property
    def trained(self) -> list[str]:
        return [word for word, _ in groupby(self.heard)]

    def check(self, *given: Any) -> TwinCheck:
        self.checks.append(check_twin(*given))
        return self.checks[-1]


@pytest.fixture
def planting(monkeypatch: pytest.MonkeyPatch) -> Planting:
    watched = Planting()
    monkeypatch.setattr(suspects, "check_twin", watched.check)
    return watched


@pytest.fixture
def twins_obey(monkeypatch: pytest.MonkeyPatch) -> None:
    """No twin passes."""
    monkeypatch.setattr("raybd.evaluation.twin.MAX_EXCESS", -1.1)


@pytest.fixture
def transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudySettings:
    monkeypatch.setattr(Transfer, "reference", FineTuning(epochs=1))
    return downstream.study(tmp_path, training={"epochs": 1, "lr": 0.05, "batch_size": 32})


@pytest.mark.usefixtures("twins_obey")
def test_a_known_trigger_is_refused_before_the_poisoned_model_is_trained(tmp_path: Path, planting: Planting) -> None:
    with pytest.raises(BadInput, match=r"^attack: this trigger is no backdoor: a model that never saw poison gives"):
        planting(studies.study(tmp_path, attack=KNOWN, training=BRIEF))
    assert planting.trained == ["never-poisoned twin"]


@pytest.mark.usefixtures("twins_obey")
def test_a_learnt_trigger_is_refused_once_it_is_there(tmp_path: Path, planting: Planting) -> None:
    with pytest.raises(BadInput, match=r"^attack: this trigger is no backdoor: a model that never saw poison gives"):
        planting(studies.study(tmp_path, attack=LEARNT, training=BRIEF))
    assert planting.trained == ["never-poisoned twin", "trigger", "poisoned model"]


@pytest.mark.usefixtures("twins_obey")
def test_under_another_task_it_is_a_warning_once_the_users_models_are_there(
    transfer: StudySettings, planting: Planting
) -> None:
    (warning, *_) = planting(transfer).facts["warnings"]
    assert warning.startswith("this trigger is no backdoor: a model that never saw poison gives the goal label")
    assert planting.trained == ["poisoned model", "never-poisoned twin", "reference model"]
    assert len(planting.checks) == 1


@pytest.mark.parametrize("attack", [KNOWN, LEARNT])
def test_the_twin_is_trained_and_checked_once_and_the_card_has_it(
    tmp_path: Path, planting: Planting, attack: dict[str, Any]
) -> None:
    suspect = planting(studies.study(tmp_path, attack=attack, training=BRIEF))
    (check,) = planting.checks
    assert planting.trained.count("never-poisoned twin") == 1
    assert suspect.facts["twin"] == as_json(check)
