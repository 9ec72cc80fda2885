"""An installed raybd is whole: its spaces and studies travel in the wheel, and it works from any folder."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
REQUIREMENTS = [each for each in map(Requirement, NEEDED) if each.name != "raybd"]  # one extra of ours names another
PINS = [
    line
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel built from this folder, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_every_file_of_the_package_and_every_space(unpacked: Path) -> None:
    def files(folder: Path) -> set[Path]:
        found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {p.relative_to(folder) for p in found}

    spaces = {Path("search_spaces") / path for path in files(REPOSITORY / "search_spaces")}
    assert files(unpacked / "raybd") == files(REPOSITORY / "raybd") | spaces
    assert Path("search_spaces/studies/demo.yaml") in spaces


def test_an_installed_raybd_finds_spaces_and_the_demo_from_any_folder(unpacked: Path, tmp_path: Path) -> None:
    program = (
        "import raybd, raybd.yaml_file as y; from raybd.settings import load_study;"
        "print(raybd.__file__, y.shipped_folder(), len(load_study('demo').load_space().search))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    package, folder, dimensions = done.stdout.split()
    assert Path(package).is_relative_to(unpacked)
    assert Path(folder) == unpacked / "raybd" / "search_spaces"
    assert int(dimensions) > 0


def test_constraints_are_exact_versions_sorted_and_name_no_host() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!_-]+", pin) for pin in PINS)
    assert sorted(PINS, key=str.lower) == PINS


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    pins = {plain(name): version for name, _, version in (pin.partition("==") for pin in PINS)}
    assert requirement.specifier.contains(pins[plain(requirement.name)])


def test_every_package_that_raybd_needs_is_pinned() -> None:
    """Down to the last: an unpinned one could change what `make demo` installs."""
    pinned, needed = {plain(pin.partition("==")[0]) for pin in PINS}, set()
    todo = [(plain(r.name), frozenset(r.extras)) for r in REQUIREMENTS]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in needed:
            continue
        needed.add((name, extras))
        for text in metadata.requires(name) or []:
            inner = Requirement(text)
            if any(inner.marker is None or inner.marker.evaluate({"extra": e}) for e in ("", *extras)):
                todo.append((plain(inner.name), frozenset(inner.extras)))
    own_of_torch = re.compile(r"(cuda|nvidia)-.*|triton")
    assert sorted({n for n, _ in needed if not own_of_torch.fullmatch(n)} - pinned) == []
