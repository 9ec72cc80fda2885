"""A run whose machine is lost with its disk: what is left is the study in PostgreSQL and the copy on S3."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import studies
from tests.cluster.postgres import Postgres
from tests.cluster.s3 import CREDENTIALS, S3

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
TRIALS = 12


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    server = S3(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server.start()
        server.make_bucket("bucket")
        yield server
        server.stop()


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


def test_a_run_goes_on_from_s3_and_postgresql_alone(tmp_path: Path, s3: S3, postgres: Postgres) -> None:
    database = postgres.fresh_database()
    file = study(tmp_path, s3, database)
    driver = raybd(file, tmp_path / "first", postgres.environment)
    while finished(postgres, database) < 4:
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = finished(postgres, database)
    shutil.rmtree(tmp_path / "first")

    again = raybd(file, tmp_path / "second", postgres.environment)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    run = tmp_path / "second" / "tiny"
    card = json.loads((run / "search" / "card.json").read_text(encoding="utf-8"))
    assert 4 <= before < TRIALS
    assert sum(record["state"] != "failed" for record in card["records"]) == TRIALS
    kept = {int(path.parent.name) for path in (run / "search" / "trials").glob("*/weights.safetensors")}
    assert kept == set(card["front"])
    assert (run / "report.html").is_file()

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
