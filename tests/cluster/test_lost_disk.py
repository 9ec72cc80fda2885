"""A run that loses its machine with its disk, or its object store for a while: PostgreSQL and S3 hold what it did."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from raybd.registry import read_json
from raybd.search.opening import DATABASE
from tests import studies
from tests.cluster.postgres import Postgres
from tests.cluster.s3 import CREDENTIALS, S3, serving
from tests.faults.checks import settled

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
TRIALS = 12


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    with serving(tmp_path) as server:
        yield server


def study(folder: Path, s3: S3, database: str) -> Path:
    whole: dict[str, Any] = studies.STUDY | {
        "search": {"trials": TRIALS, "max_accuracy_drop": 0.1},
        "cluster": {"storage": "s3://bucket/raybd", "s3_endpoint": s3.endpoint, "optuna": database},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(studies.SPACE), encoding="utf-8")
    (folder / "study.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    return folder / "study.yaml"


def raybd(study: Path, runs: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    # The copy is sent every 10 s and given up after 120; here sooner, so that the test need not wait.
    seconds = "lease.EVERY_SECONDS, lease.SILENT_SECONDS, lease.ASK_SECONDS = 0.5, 5, 0.5"
    program = f"from raybd.stages import lease; {seconds}; from raybd.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", str(study), "--runs", str(runs)],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(postgres: Postgres, database: str) -> int:
    """How many trials the database has that ended."""
    with postgres.connection(database.rpartition("/")[2]) as connection:
        if connection.execute("SELECT to_regclass('trials')").fetchone() == (None,):
            return 0
        row = connection.execute("SELECT count(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')").fetchone()
    assert row is not None
    return int(row[0])


def kept_in(postgres: Postgres, database: str, run: Path) -> optuna.Study:
    """The study of a run folder, read with Optuna alone."""
    name = read_json(run / "search" / DATABASE)["study"]
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in postgres.environment.items():
            patch.setenv(variable, value)
        return optuna.load_study(study_name=name, storage=database.replace("://", "+psycopg://"))


def until(postgres: Postgres, database: str, trials: int, driver: "subprocess.Popen[str]") -> None:
    """Wait until so many trials have ended; the run goes on."""
    while finished(postgres, database) < trials:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.1)


def test_a_run_goes_on_from_s3_and_postgresql_alone(tmp_path: Path, s3: S3, postgres: Postgres) -> None:
    database = postgres.fresh_database()
    file = study(tmp_path, s3, database)
    driver = raybd(file, tmp_path / "first", postgres.environment)
    until(postgres, database, 4, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = finished(postgres, database)
    shutil.rmtree(tmp_path / "first")

    again = raybd(file, tmp_path / "second", postgres.environment)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    run = tmp_path / "second" / "tiny"
    assert 4 <= before < TRIALS
    assert (run / "report.html").is_file()
    settled(run, kept_in(postgres, database, run))

    secrets = {*postgres.environment.values(), CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
    texts = [said, *(path.read_bytes().decode(errors="replace") for path in run.rglob("*") if path.is_file())]
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_a_stage_once_done_elsewhere_is_fetched_and_not_done_again(tmp_path: Path, s3: S3, postgres: Postgres) -> None:
    file = study(tmp_path, s3, postgres.fresh_database())
    for runs in ("first", "second"):
        done = raybd(file, tmp_path / runs, postgres.environment)
        said, _ = done.communicate(timeout=600)
        assert done.returncode == 0, said
    cards = [(tmp_path / runs / "tiny" / "inject" / "card.json").read_bytes() for runs in ("first", "second")]
    assert cards[0] == cards[1]
    assert "kept" in said


def test_a_run_outlives_an_object_store_that_answers_nobody_for_a_while(
    tmp_path: Path, s3: S3, postgres: Postgres
) -> None:
    database = postgres.fresh_database()
    file = study(tmp_path, s3, database)
    driver = raybd(file, tmp_path / "first", postgres.environment)
    until(postgres, database, 3, driver)
    s3.freeze()
    frozen = finished(postgres, database)
    time.sleep(20)
    went_on = driver.poll() is not None or finished(postgres, database) > frozen
    s3.thaw()
    said, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, said
    assert went_on, "the search waited for the copy"
    run = tmp_path / "first" / "tiny"
    settled(run, kept_in(postgres, database, run))

    shutil.rmtree(tmp_path / "first")
    again = raybd(file, tmp_path / "second", postgres.environment)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    settled(tmp_path / "second" / "tiny", kept_in(postgres, database, tmp_path / "second" / "tiny"))
