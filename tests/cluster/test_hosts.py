"""Two real hosts without a common disk: a search goes on over a cut cable, a lost worker and a lost head."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from raybd.search.opening import JOURNAL
from tests import studies
from tests.cluster.hosts import Hosts, hosts, needed
from tests.faults.checks import settled

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), needed]
TRIALS = 12


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Hosts]:
    with hosts(tmp_path) as running:
        yield running


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file for three workers at once, of which there is room for two."""
    whole = studies.STUDY | {
        "search": {"trials": TRIALS, "max_accuracy_drop": 0.1, "sampler": "random"},
        "resources": {"executor": "ray", "workers": 3},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(studies.SPACE), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return tmp_path / "study.yaml"


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def trials(runs: Path) -> list[Any]:
    journal = runs / "tiny" / "search" / JOURNAL
    if not journal.is_file():
        return []
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    names = [each.study_name for each in storage.get_all_studies()]
    return optuna.load_study(study_name=names[0], storage=storage).trials if names else []


def wait_for(runs: Path, process: "subprocess.Popen[str]", told: int) -> None:
    """Until so many trials have ended and the search still runs."""
    for _ in range(3000):
        if sum(trial.state.is_finished() for trial in trials(runs)) >= told:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("the search does not get on")


def test_a_whole_study_runs_on_a_machine_that_does_not_see_the_run_folder(both: Hosts, study: Path) -> None:
    code, said = ended(both.raybd("run", str(study)))
    assert code == 0, said
    settled(both.runs / "tiny")
    outcomes = list((both.runs / "tiny").rglob("outcome.json"))
    assert outcomes
    assert all(path.with_name("weights.safetensors").is_file() for path in outcomes)


def cut(both: Hosts) -> None:
    both.cut(30)


def lose_worker(both: Hosts) -> None:
    both.kill("worker")
    both.start_worker()


@pytest.mark.parametrize("fault", [cut, lose_worker])
def test_a_search_outlives(fault: Callable[[Hosts], None], both: Hosts, study: Path) -> None:
    driver = both.raybd("inject", str(study))
    assert ended(driver)[0] == 0
    driver = both.raybd("search", str(study))
    wait_for(both.runs, driver, 2)
    fault(both)
    code, said = ended(driver)
    if code != 0:  # a cable cut for long enough may take the driver along
        assert fault is cut, said
        both.kill("worker")
        both.kill("head")
        both.start_head()
        both.start_worker()
        code, said = ended(both.raybd("search", str(study), "--resume"))
    assert code == 0, said
    settled(both.runs / "tiny")


def test_a_job_submitted_again_after_the_head_was_lost_goes_on_where_it_was(both: Hosts, study: Path) -> None:
    driver = both.raybd("run", str(study))
    wait_for(both.runs, driver, 3)
    both.kill("head")
    both.kill("worker")
    driver.communicate()
    before = len([trial for trial in trials(both.runs) if trial.state.is_finished()])
    both.start_head()
    both.start_worker()
    code, said = ended(both.raybd("run", str(study)))
    assert code == 0, said
    assert before >= 3
    settled(both.runs / "tiny")
