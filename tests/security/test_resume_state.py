"""What a search is resumed from, beside its journal and cards: clock, outcomes of jobs, another run's front."""

import shutil
from pathlib import Path

import pytest
import torch

from raybd.defenses import FineTuning
from raybd.gate import Gate
from raybd.registry import BadInput, read_json, write_json
from raybd.search.records import Job
from raybd.stages import jobs, searching
from raybd.stages.warm_start import warm_settings
from raybd.weights import save_weights
from tests.search.fakes import SPACE, measured, open_decider
from tests.security import valid
from tests.security.corpus import hostile_json

GATE = Gate(
    max_attack_success_rate=0.05, max_accuracy_drop=0.03, max_class_accuracy_drop=0.25, max_membership_auc_rise=None
)
HOSTILE = dict(hostile_json())
WRONG = {"text": b'{"seconds": "1"}', "truth": b'{"seconds": true}', "other": b'{"minutes": 1}'}


@pytest.mark.parametrize("name", [*HOSTILE, *WRONG])
def test_a_hostile_clock_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "clock.json").write_bytes({**HOSTILE, **WRONG}[name])
    with pytest.raises(BadInput, match=r"clock\.json"):
        searching._Clock(tmp_path / "clock.json")


@pytest.mark.parametrize("running", [True, False])
def test_a_journal_whose_setting_is_of_another_space_is_refused_before_a_line_is_added(
    tmp_path: Path, running: bool
) -> None:
    valid.journal(tmp_path)
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes().replace(b"phase1_share", b"phase1_shabe", 1).splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if b'"outcome"' in line)
    journal.write_bytes(b"".join(lines[:end] if running else lines))
    before = journal.read_bytes()
    with pytest.raises(BadInput, match="damaged: trial 0"):
        open_decider(tmp_path, trials=7)
    assert journal.read_bytes() == before


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose outcome lies beside its weights."""
    save_weights({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    job = Job(defense=FineTuning(), seed=1, weights=tmp_path / "weights.safetensors")
    jobs._keep(job, measured(0.01, 0.97))
    assert jobs._kept(job) == measured(0.01, 0.97)
    return job


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_outcome_is_refused(job: Job, name: str) -> None:
    jobs._file(job).write_bytes(HOSTILE[name])
    with pytest.raises(BadInput, match=r"outcome\.json"):
        jobs._kept(job)


@pytest.mark.parametrize(
    "changes", [{"state": "won"}, {"steps": 1.5}, {"objectives": []}, {"clean_accuracy": {"n": 1}}]
)
def test_an_outcome_of_other_types_is_refused(job: Job, changes: dict[str, object]) -> None:
    card = read_json(jobs._file(job))
    write_json(jobs._file(job), {**card, "outcome": {**card["outcome"], **changes}})
    with pytest.raises(BadInput, match=r"outcome\.json: outcome is damaged"):
        jobs._kept(job)


@pytest.mark.parametrize(
    "changes",
    [
        {"front": [7]},
        {"space": {"defense": "os:system"}},
        {"records": [{}]},
        {"records": [1]},
        {"space": {}},
        {"seed": ""},
    ],
)
def test_a_hostile_earlier_run_warms_nothing_up(tmp_path: Path, changes: dict[str, object]) -> None:
    valid.search(tmp_path)
    assert warm_settings([tmp_path], SPACE, GATE) == ()  # its only setting is the space's own first
    card = tmp_path / "search" / "card.json"
    shutil.copyfile(card, tmp_path / "good.json")
    write_json(card, {**read_json(tmp_path / "good.json"), **changes})
    with pytest.raises(BadInput, match=r"card\.json"):
        warm_settings([tmp_path], SPACE, GATE)
