"""What the README says is true: its commands exist, its files are those the example writes, its tables are measured."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raybd import pipeline
from raybd.cli import app
from tests.benchmarks import readme_speed, readme_tables
from tests.examples import own_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_table_and_file_in_it_is_the_current_one() -> None:
    assert readme_tables.filled(README) == README


def test_the_measured_tables_are_there() -> None:
    assert {
        "third-party",
        "demo-seeds",
        "paper-undefended",
        "paper-defended",
        *readme_speed.TABLES,
    } <= readme_tables.blocks().keys()


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"(?:`|^)raybd ([a-z]+)", README, flags=re.MULTILINE))))
def test_every_command_it_names_exists(verb: str) -> None:
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_file_it_links_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_its_python_names_functions_that_exist() -> None:
    (program,) = [block for block in code("python") if "import raybd" in block]
    used = {n.attr for n in ast.walk(ast.parse(program)) if isinstance(n, ast.Attribute) and _of(n) == "pipeline"}
    assert used >= {"adopt", "search", "select", "assess", "promote", "report"}
    assert all(callable(getattr(pipeline, name)) for name in used)
    assert len(program.strip().splitlines()) <= 12


def _of(node: ast.Attribute) -> str:
    return node.value.attr if isinstance(node.value, ast.Attribute) else ""


def test_the_own_model_example_is_as_short_as_it_says() -> None:
    assert len(own_model.NETS.strip().splitlines()) <= 15
    assert yaml.safe_load(own_model.STUDY)["suspect"]["factory"] == "my_nets:small_vgg"
