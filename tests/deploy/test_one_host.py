"""What compose.yaml says is run for real, in namespaces instead of containers: one host with everything on it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import ROOT
from tests.deploy.one_host import POSTGRES

SPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
PROGRAMS = ["ip", "mount", "psql", "runuser", "unshare", "wget"]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(not POSTGRES.is_dir(), reason=f"no PostgreSQL at {POSTGRES}"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Any]]:
    if subprocess.run([*SPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces cannot be made here")
    # Short, for Ray's sockets, and open to the user `postgres`, which pytest's own folder is not.
    with tempfile.TemporaryDirectory(prefix="oh") as name:
        work = Path(name)
        work.chmod(0o755)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": f"{name}/r", "PYTHONDONTWRITEBYTECODE": "1"}
        program = [*SPACES, sys.executable, "-m", "tests.deploy.one_host", name]
        done = subprocess.run(program, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(work.glob("*.log")))
        assert done.returncode == 0, f"{done.stderr}\n{logs}"
        yield json.loads(done.stdout.splitlines()[-1])


def test_mlflow_wants_a_user_and_answers_to_its_own_names_alone(seen: dict[str, Any]) -> None:
    assert seen["mlflow"] == {"nobody": 401, "admin": 200, "another host": 403}


def test_ray_wants_its_token(seen: dict[str, Any]) -> None:
    assert seen["ray"] == {"stranger's health": False, "jobs": 401}


def test_the_smoke_test_ends_well_and_can_be_repeated(seen: dict[str, Any]) -> None:
    assert seen["smoke"] == ["raybd-job: exit 0: promoted"] * 2
    assert seen["runs"] >= 6


def test_no_program_sees_another_ones_database(seen: dict[str, Any]) -> None:
    assert not seen["raybd in mlflow's database"]
