"""The limits in `SECURITY.md` are those of the code, and the files and targets it names are there."""

import re
from pathlib import Path

import pytest

from raybd import registry, screening, sources, yaml_file
from raybd.search import scrutiny

ROOT = Path(__file__).parents[2]
TEXT = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
MIB, KIB = 2**20, 2**10


@pytest.mark.parametrize(
    "said",
    [
        f"header up to {screening.HEADER_BYTES // MIB} MiB",
        f"at most {screening.PICKLE_BYTES // MIB} MiB of pickle",
        f"at most {screening.FREE_BYTES // 2**30} GiB, or {screening.EXPANSION} times the file",
        f"labels from {sources.MAX_CLASSES:,} on",
        ", ".join(screening.IMAGE_FORMATS),
        f"YAML up to {yaml_file.FILE_BYTES // KIB} KiB, {yaml_file.DEPTH} deep, {yaml_file.NODES:,} values",
        f"up to {registry.JSON_BYTES // MIB} MiB, {registry.JSON_DEPTH} deep",
        f"JSON lines up to {scrutiny.LINE_BYTES // MIB} MiB",
    ],
)
def test_a_limit_is_that_of_the_code(said: str) -> None:
    assert said in TEXT


@pytest.mark.parametrize("path", re.findall(r"`((?:tests|raybd)/[\w./]*|constraints\.txt)`", TEXT))
def test_what_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", re.findall(r"`make ([\w-]+)`", TEXT))
def test_a_command_it_names_is_a_target(target: str) -> None:
    assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")
