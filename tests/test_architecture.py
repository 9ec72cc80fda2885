"""The house is as the design draws it: imports go one way, rooms stay small, each says what it is for."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted((REPOSITORY / "raybd").rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

ROOMS = {
    "ray": {"raybd.cluster", "raybd.search.tuner", "raybd.search.halving"},
    "optuna": {"raybd.search", "raybd.report"},
    "mlflow": {"raybd.tracking"},
    "pydantic": {"raybd.settings"},
    "rich": {"raybd.cli", "raybd.progress"},
    "typer": {"raybd.cli"},
}
"""The rooms that may import a library; a room's own rooms count as the room."""


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    whole = function.end_lineno - function.lineno + 1
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return whole - (first.end_lineno - first.lineno + 1 if documented else 0)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("raybd", include_external_packages=True, cache_dir=None)


def test_imports_go_one_way() -> None:
    # A process of its own: in this one the linter would disable every logger there is, for all the tests that follow.
    linter = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([linter, "--no-cache"], check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == os.EX_OK, ended.stdout + ended.stderr


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_is_known_to_its_rooms_alone(graph: grimp.ImportGraph, library: str) -> None:
    knowing = graph.find_modules_that_directly_import(library) if library in graph.modules else set()
    strangers = {m for m in knowing if not any(m == r or m.startswith(f"{r}.") for r in ROOMS[library])}
    assert not strangers


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_opens_with_one_sentence_on_what_lives_in_it(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert said.split("\n\n")[0].endswith((".", "?"))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name)
def test_a_file_is_no_longer_than_a_few_screens(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = {f.name: lines for f in functions(tree) if (lines := code_lines(f)) > MAX_FUNCTION_LINES}
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_types_can_be_read_at_run_time_and_nothing_seeds_globally(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    banned = ["from __future__ import annotations", "TYPE_CHECKING", "np.random.seed(", "random.seed("]
    if path.name != "seeds.py":
        banned.append("manual_seed(")
    # A generator of one's own is seeded by raybd.seeds.generator.
    assert [word for word in banned if word in text] == []
