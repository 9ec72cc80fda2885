"""Eight users search at once on one tracking server and one database: nothing is mixed up, nothing is lost."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from raybd.registry import read_json
from raybd.search.opening import DATABASE
from raybd.tracking.client import connect
from tests.load.tracking_server import tracking_server
from tests.search.fakes import drive, open_decider

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
USERS, TRIALS = 8, 6


@dataclass
class User:
    """A user: two share a study's name, none a seed."""

    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"study{self.seed // 2}"


@pytest.fixture(scope="module")
def done(postgres, tmp_path_factory):
    """All eight searches, ended; the server and the database are still there."""
    folder = tmp_path_factory.mktemp("users")
    users = [User(seed=seed, folder=folder / f"user{seed}") for seed in range(USERS)]
    storage = postgres.fresh_database()
    with tracking_server(postgres, folder) as uri:
        processes = [start(user, storage, uri) for user in users]
        time.sleep(5)  # who is not ready by then begins a little later
        (folder / "go").touch()
        said = [process.communicate(timeout=800)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * USERS, "\n".join(said)[-3000:]
        yield SimpleNamespace(users=users, storage=storage.replace("://", "+psycopg://"), uri=uri)


def start(user, storage, uri):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.load.user", str(user.folder), user.name, str(user.seed), str(TRIALS)),
            *(storage, uri),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def alone(user, tmp_path):
    """The settings that the user's search proposes when it has a machine to itself."""
    with open_decider(tmp_path / f"alone{user.seed}", name=user.name, seed=user.seed, trials=TRIALS) as decider:
        return [proposal.setting for proposal in drive(decider)]


def test_every_study_has_its_own_trials_and_no_others(done, tmp_path):
    for user in done.users:
        kept = read_json(user.folder / "run" / "search" / DATABASE)["study"]
        trials = optuna.load_study(study_name=kept, storage=done.storage).trials
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
        assert [trial.user_attrs["proposal"]["setting"] for trial in trials] == alone(user, tmp_path)
    assert len(optuna.get_all_study_names(done.storage)) == USERS


def test_every_run_has_its_own_parent_and_none_is_missing(done, tmp_path):
    client = connect(done.uri)
    for user in done.users:
        state = read_json(user.folder / "run" / "tracking.json")
        experiment = client.get_experiment_by_name(f"raybd/{user.name}").experiment_id
        query = f"tags.`mlflow.parentRunId` = '{state['parent_run_id']}'"
        children = client.search_runs([experiment], query, max_results=1000)
        shown = {run.info.run_name: float(run.data.params["lr_max1"]) for run in children}
        wanted = {f"trial-{number}": setting["lr_max1"] for number, setting in enumerate(alone(user, tmp_path))}
        assert shown == pytest.approx(wanted)
        assert len(children) == TRIALS
        assert {run.info.status for run in children} == {"FINISHED"}
        assert not (user.folder / "run" / "outbox.jsonl").exists()
        everything = client.search_runs([experiment], max_results=1000)
        assert len(everything) == 2 * (TRIALS + 1), "two users of the same name, each with a run of the study's own"
