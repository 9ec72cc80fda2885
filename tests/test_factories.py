"""The user's own factory runs only from where the user said: the study's folder, or a package the study names."""

import sys
from pathlib import Path

import pytest

from raybd.factories import load_factory
from raybd.registry import BadInput

SOURCE = "def build(): return 'mine'\nvalue = 3\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))  # a loaded folder joins the import path
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path


def test_a_file_in_the_folder_works(folder: Path) -> None:
    assert load_factory("nets:build", folder=folder, packages=())() == "mine"


def test_a_dotted_module_is_a_file_in_a_subfolder(folder: Path) -> None:
    (folder / "zoo").mkdir()
    (folder / "zoo" / "small.py").write_text(SOURCE)
    assert load_factory("zoo.small:build", folder=folder, packages=())() == "mine"


def test_the_file_may_import_its_neighbours(folder: Path) -> None:
    (folder / "my_blocks_of_raybd_test.py").write_text("NAME = 'neighbour'\n")
    (folder / "uses.py").write_text("from my_blocks_of_raybd_test import NAME\ndef build(): return NAME\n")
    assert load_factory("uses:build", folder=folder, packages=())() == "neighbour"


@pytest.mark.parametrize("name", ["json", "torch", "models"])
def test_a_file_named_like_an_installed_module_is_the_users_and_hides_nothing(folder: Path, name: str) -> None:
    before = sys.modules.get(name)
    (folder / f"{name}.py").write_text(SOURCE)
    assert load_factory(f"{name}:build", folder=folder, packages=())() == "mine"
    assert sys.modules.get(name) is before
    assert sys.path[0] != str(folder)


def test_two_folders_may_have_a_file_of_the_same_name(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "nets.py").write_text("def build(): return 'other'\n")
    assert load_factory("nets:build", folder=folder, packages=())() == "mine"
    assert load_factory("nets:build", folder=folder / "other", packages=())() == "other"


@pytest.mark.parametrize("spec", ["os:system", "subprocess:run", "raybd.seeds:derive", "gone:build"])
def test_a_module_from_outside_the_folder_is_refused(folder: Path, spec: str) -> None:
    with pytest.raises(BadInput, match=r"neither a file .*\.py in the study's folder nor of an installed package"):
        load_factory(spec, folder=folder, packages=())


@pytest.mark.parametrize("spec", ["../nets:build", "..nets:build", ".nets:build", "a..nets:build", "/etc/nets:build"])
def test_a_path_is_no_module(folder: Path, spec: str) -> None:
    (folder / "inner").mkdir()
    with pytest.raises(BadInput, match="is neither a file"):
        load_factory(spec, folder=folder / "inner", packages=())
    with pytest.raises(BadInput, match="is neither a file"):
        load_factory(spec, folder=folder, packages=())


def test_an_installed_package_must_be_listed() -> None:
    with pytest.raises(BadInput, match="'packages:'"):
        load_factory("torchvision.models:resnet18", folder=None, packages=("torch",))
    assert callable(load_factory("torchvision.models:resnet18", folder=None, packages=("torchvision",)))


def test_a_listed_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(BadInput, match="package 'no_such_package' cannot be imported"):
        load_factory("no_such_package:build", folder=None, packages=("no_such_package",))


@pytest.mark.parametrize("spec", ["nets", "nets:", ":build", ""])
def test_a_spec_has_two_parts(folder: Path, spec: str) -> None:
    with pytest.raises(BadInput, match="expected 'module:function'"):
        load_factory(spec, folder=folder, packages=())


@pytest.mark.parametrize("function", ["gone", "value"])
def test_the_function_must_be_there_and_callable(folder: Path, function: str) -> None:
    with pytest.raises(BadInput, match=f"module 'nets' has no function '{function}'"):
        load_factory(f"nets:{function}", folder=folder, packages=())


def test_a_file_that_fails_on_import_is_named_and_can_be_repaired(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    with pytest.raises(BadInput, match=r"broken\.py fails on import \(ZeroDivisionError"):
        load_factory("broken:build", folder=folder, packages=())
    (folder / "broken.py").write_text("def build(): return 'repaired'\n")
    assert load_factory("broken:build", folder=folder, packages=())() == "repaired"
