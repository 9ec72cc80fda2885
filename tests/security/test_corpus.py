"""Every hostile file is refused in words, nothing of it runs, and memory and time stay bounded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.security.corpus import cases

CASES = [each.id for each in cases()]
SECONDS, MIB = 20.0, 200  # a busy machine is slow at everything; the slowest takes 3 s of one core


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of the corpus in a process that could not have had 4 GiB more."""
    folder = tmp_path_factory.mktemp("corpus")
    command = [sys.executable, "-m", "tests.security.bounded", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_no_two_cases_share_a_name() -> None:
    assert len(set(CASES)) == len(CASES) > 200


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_refused(found: dict[str, Any], case: str) -> None:
    assert (found["cases"][case]["how"], found["cases"][case]["seen"]) == ("refused", []), found["cases"][case]["said"]


def test_no_code_of_a_file_ran(found: dict[str, Any]) -> None:
    assert not found["marker"]


def test_what_is_refused_is_left_as_it_was(found: dict[str, Any]) -> None:
    assert [case for case, told in found["cases"].items() if not told["kept"]] == []


def test_refusing_takes_little_memory(found: dict[str, Any]) -> None:
    assert {case: told["mib"] for case, told in found["cases"].items() if told["mib"] > MIB} == {}


def test_refusing_takes_little_time(found: dict[str, Any]) -> None:
    assert {case: told["seconds"] for case, told in found["cases"].items() if told["seconds"] > SECONDS} == {}


def test_a_refusal_can_be_read(found: dict[str, Any]) -> None:
    assert {case: told["letters"] for case, told in found["cases"].items() if not 10 < told["letters"] < 2000} == {}
