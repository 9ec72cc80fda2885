"""What the fault tests share: a home with a planted suspect, copied for each test, and one finished run."""

import shutil
from pathlib import Path

import pytest

from raybd import pipeline
from tests.faults.homes import Home
from tests.tracking.conftest import migrated

__all__ = ["migrated"]


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Home:
    """Trained once; a fresh database takes MLflow seconds, a copy none."""
    home = Home(tmp_path_factory.mktemp("planted"))
    pipeline.inject(home.settings(), runs=home.runs)
    shutil.copyfile(migrated, home.run / "mlflow.db")
    return home


@pytest.fixture
def home(planted: Home, tmp_path: Path) -> Home:
    """A home of one's own, its suspect in its run folder."""
    return Home(Path(shutil.copytree(planted.folder, tmp_path / "home")))


@pytest.fixture(scope="session")
def searched(planted: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose search of four trials nothing has disturbed; tests copy it."""
    home = Home(Path(shutil.copytree(planted.folder, tmp_path_factory.mktemp("searched") / "home")))
    pipeline.search(home.settings(search={"trials": 4}), runs=home.runs)
    return home
