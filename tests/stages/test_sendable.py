"""What of a run folder goes into its copy: all that is there, and nothing of what is being written."""

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from raybd.stages import sendable


def test_a_folder_that_vanishes_while_the_files_are_counted_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    real = os.scandir

    def late(path: object) -> object:
        if str(path) == str(tmp_path / "a"):
            shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", late)
    assert [name for name, _ in sendable.files(tmp_path)] == ["b/file"]


def test_a_database_that_somebody_keeps_locked_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendable, "LOCKED_SECONDS", 0.5)
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE runs (name TEXT)")
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        for ended in (False, True):
            start = time.monotonic()
            assert sendable.content(path, ended=ended) is None
            assert time.monotonic() - start < 10
    assert sendable.content(path, ended=False)
