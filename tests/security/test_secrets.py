"""What a user keeps in the environment appears in no file of the run folder, in no database, and in no output."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.studies import SPACE, STUDY

SECRETS = {
    name: f"planted-{name.lower().replace('_', '-')}-6d1f"
    for name in (
        *("PGPASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"),
    )
}
TYPED = "planted-typed-password-6d1f"
PROGRAM = "from raybd.cli import main; main()"


class Home:
    """A folder with a study whose commands run in processes of their own, every secret in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = b""

    def raybd(self, *words: str, **changes: dict[str, Any]) -> int:
        """Run a command and keep what it says; `changes` are sections of the study, key by key."""
        study = {**STUDY, **{key: {**STUDY[key], **value} for key, value in changes.items()}}
        (self.folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
        (self.folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        command = [sys.executable, "-c", PROGRAM, *words, str(self.folder / "study.yaml")]
        runs = ["--runs", str(self.folder / "runs")] if words[-1] != "validate" else []
        environment = {**os.environ, **SECRETS}
        done = subprocess.run([*command, *runs], capture_output=True, check=False, env=environment, cwd=self.folder)
        self.said += done.stdout + done.stderr
        return done.returncode

    def found(self, secrets: dict[str, str]) -> list[str]:
        """Where any of the secrets stands: `output`, or the names of files. The study's own file is the user's."""
        places = [("output", self.said)]
        places += [
            (str(path.relative_to(self.folder)), path.read_bytes())
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path != self.folder / "study.yaml"
        ]
        return [f"{name} in {where}" for where, held in places for name, it in secrets.items() if it.encode() in held]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A whole small study, done, and reported again on a server that does not answer."""
    home = Home(tmp_path_factory.mktemp("secrets"))
    small = {"training": {"epochs": 4}, "search": {"trials": 1}}
    assert home.raybd("--debug", "run", **small) in {0, 3, 4}, home.said.decode()
    home.raybd("--debug", "report", **small, tracking={"uri": "http://127.0.0.1:1"})
    return home


def test_the_study_was_done_and_tracked(finished: Home) -> None:
    names = {path.name for path in finished.folder.rglob("*")}
    assert {"mlflow.db", "report.html", "summary.json", "journal.log", "outbox.jsonl", "tracking.json"} <= names


def test_no_secret_of_the_environment_is_written_or_said(finished: Home) -> None:
    assert finished.found(SECRETS) == []


def test_the_search_for_secrets_finds_them(finished: Home, tmp_path: Path) -> None:
    other = Home(tmp_path)
    (tmp_path / "file").write_bytes(b"\0" + SECRETS["PGPASSWORD"].encode())
    other.said = f"Traceback: {TYPED}".encode()
    assert other.found({**SECRETS, "typed": TYPED}) == ["typed in output", "PGPASSWORD in file"]


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_a_password_in_the_study_is_refused_and_repeated_nowhere(tmp_path: Path, verb: str) -> None:
    home = Home(tmp_path)
    assert home.raybd("--debug", verb, tracking={"uri": f"http://me:{TYPED}@127.0.0.1:1"}) == 2
    assert b"tracking.uri" in home.said
    assert home.found({**SECRETS, "typed": TYPED}) == []
