"""Files of a run folder that were cut short, overwritten or are of another shape are refused, and left as they are."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raybd import pipeline
from raybd.cli.commands import app
from raybd.search import local
from tests.faults.checks import figures, settled
from tests.faults.homes import Home

pytestmark = pytest.mark.timeout(1200)

WEIGHTS = "weights.safetensors"
CASES = [
    ("study.json", "run"),
    ("inject/card.json", "search"),
    ("inject/splits.json", "search"),
    (f"inject/{WEIGHTS}", "search"),
    ("search/card.json", "run"),
    ("search/card.json", "search"),
    ("search/clock.json", "search"),
    ("search/journal.log", "search"),
    ("tracking.json", "search"),
    ("select/card.json", "run"),
    ("select/card.json", "assess"),
    (f"select/{WEIGHTS}", "promote"),
    (f"select/{WEIGHTS}", "report"),
    ("assess/card.json", "run"),
    ("assess/card.json", "promote"),
    ("promote/card.json", "run"),
]


@pytest.fixture(scope="module")
def finished(planted: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(Path(shutil.copytree(planted.folder, tmp_path_factory.mktemp("finished") / "home")))
    pipeline.run(home.settings(search={"trials": 2}), runs=home.runs)
    return home


def cut_short(content: bytes) -> bytes:
    """Without its second half; of a journal also the line before the last is damaged, which no kill can do."""
    half = content[: len(content) // 2]
    return half + b"\n" + content[-40:]


def overwritten(content: bytes) -> bytes:
    return b"\x00\xff" * (len(content) // 2)


def of_another_shape(content: bytes) -> bytes:
    return b'["whatever"]\n["whatever"]\n' if b"op_code" in content else b'["whatever"]\n'


def raybd(home: Home, verb: str) -> Any:
    resume = ["--resume"] if verb == "search" else []
    return CliRunner().invoke(app, [verb, str(home.folder / "study.yaml"), "--runs", str(home.runs), *resume])


@pytest.mark.parametrize("damage", [cut_short, overwritten, of_another_shape])
@pytest.mark.parametrize(("name", "verb"), CASES)
def test_a_damaged_file_is_refused_with_exit_2_and_left_as_it_was(
    finished: Home, tmp_path: Path, name: str, verb: str, damage: Any
) -> None:
    home = Home(Path(shutil.copytree(finished.folder, tmp_path / "home")))
    file = home.run / name
    file.write_bytes(damage(file.read_bytes()))
    before = _state(home)
    done = raybd(home, verb)
    assert done.exit_code == 2, done.output
    assert file.name in done.stderr
    assert _state(home) == before


def _state(home: Home) -> dict[str, bytes]:
    """All that raybd goes on from; MLflow's own database may note that it was asked."""
    kept = [p for p in home.run.rglob("*") if p.is_file() and "mlflow" not in p.name and p.name != ".tracking.lock"]
    return {str(p.relative_to(home.run)): p.read_bytes() for p in kept}


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["outcome.json", WEIGHTS])
def test_a_damaged_training_of_a_stage_that_was_killed_is_refused(
    searched: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = Home(Path(shutil.copytree(searched.folder, tmp_path / "home")))
    run_trial, ran = local.run_trial, []

    def stopped_at_the_second(*arguments: Any, **options: Any) -> Any:
        if ran:
            raise KeyboardInterrupt
        ran.append(1)
        return run_trial(*arguments, **options)

    with monkeypatch.context() as stopped:
        stopped.setattr(local, "run_trial", stopped_at_the_second)
        assert raybd(home, "select").exit_code == 130
    (file,) = home.run.glob(f"select/confirm/*/*/{name}")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (whole[: len(whole) // 2], b"[]", *([bytes(flipped)] if name == WEIGHTS else [])):
        file.write_bytes(damaged)
        done = raybd(home, "select")
        assert done.exit_code == 2, done.output
        assert file.name in done.stderr
        assert file.read_bytes() == damaged
    file.write_bytes(whole)
    assert raybd(home, "select").exit_code == 0


def test_a_last_line_written_by_half_survives(searched: Home, tmp_path: Path) -> None:
    """As a kill leaves it: the trial that was being written down has its end told anew."""
    home = Home(Path(shutil.copytree(searched.folder, tmp_path / "home")))
    whole = home.journal.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    (home.run / "search" / "card.json").unlink()
    for cut in (last + 1, (last + len(whole)) // 2, len(whole) - 1):
        home.journal.write_bytes(whole[:cut])
        pipeline.search(home.settings(search={"trials": 4}), runs=home.runs, resume=True)
        settled(home.run)
        assert figures(home.run) == figures(searched.run)


def test_a_journal_that_lost_trials_is_refused(searched: Home, tmp_path: Path) -> None:
    """Cut at the end of a line it is a good journal, only not that of the search whose card lies beside it."""
    home = Home(Path(shutil.copytree(searched.folder, tmp_path / "home")))
    lines = home.journal.read_bytes().splitlines(keepends=True)
    for kept in (0, len(lines) // 2):
        home.journal.write_bytes(b"".join(lines[:kept]))
        before = (home.run / "search" / "card.json").read_bytes()
        done = raybd(home, "search")
        assert done.exit_code == 2, done.output
        assert "no longer holds trial" in done.stderr
        assert (home.run / "search" / "card.json").read_bytes() == before
