"""The disk of the run folder is full, or can only be read: the search stops in words, loses nothing, and goes on."""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from raybd import pipeline
from raybd.cli.guard import FAULT
from raybd.files import append_whole, disk_fault, write_whole
from raybd.search.journal import HeldJournal
from tests.faults.checks import figures, settled
from tests.faults.homes import Home, wait_for
from tests.studies import contents

pytestmark = pytest.mark.timeout(1200)

MIB = 2**20


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of our own at `folder` for as long as the block lasts."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "raybd-test", folder], check=False)
    if made.returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield folder
    finally:
        # Lazily, because MLflow keeps a database open in this process once it has looked into it.
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def fill(path: Path) -> None:
    """Take what is left of the disk."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 if file.tell() % 4096 else 4096))


@pytest.fixture
def small(home: Home, tmp_path: Path) -> Iterator[Home]:
    """A home whose run folder lies on a disk of its own with a little room."""
    shutil.move(home.runs, tmp_path / "aside")
    with small_disk(home.runs, 24 * MIB):
        shutil.copytree(tmp_path / "aside", home.runs, dirs_exist_ok=True)
        yield home


@pytest.mark.cluster
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_disk_that_fills_up_in_the_middle_ends_the_search_in_words_and_room_lets_it_go_on(
    small: Home, searched: Home, executor: str
) -> None:
    resources = {"executor": executor, "workers": 1 if executor == "ray" else None}
    small.settings(search={"trials": 4}, resources=resources)
    with small.begun("search") as driver:
        assert wait_for(lambda: small.ended() >= 2 or driver.poll() is not None)
        assert driver.poll() is None, driver.communicate()[1]
        while driver.poll() is None:  # the search itself makes room now and then: weights that left the front
            fill(small.runs / "filler")
        said = driver.communicate()[1]
    assert driver.returncode == FAULT, said
    assert "No space left on device" in said
    assert "raybd search study.yaml --resume" in said
    assert "Traceback" not in said
    (small.runs / "filler").unlink()
    resumed = small.raybd("search", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    waited = small.raybd("sync")  # what the database, on the same disk, had no room for
    assert waited.returncode == 0, waited.stderr
    assert not (small.run / "outbox.jsonl").exists(), (waited.stdout, (small.run / "outbox.jsonl").read_bytes()[:2000])
    settled(small.run)
    assert figures(small.run) == figures(searched.run)


@pytest.mark.cluster
def test_a_disk_that_can_only_be_read_is_said_so_and_left_as_it_was(small: Home, searched: Home) -> None:
    small.settings(search={"trials": 4})
    with small.begun("search") as driver:
        assert wait_for(lambda: small.ended() >= 1 or driver.poll() is not None)
    remount(small.runs, "ro")
    before = contents(small.runs)
    told = small.raybd("run")
    assert contents(small.runs) == before
    assert told.returncode == FAULT
    assert "Read-only file system" in told.stderr
    assert "go on with: raybd run study.yaml" in told.stderr
    remount(small.runs, "rw")
    assert small.raybd("search", "--resume").returncode == 0
    settled(small.run)
    assert figures(small.run) == figures(searched.run)


def test_a_line_for_which_there_is_no_room_leaves_no_half_of_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        held = HeldJournal.hold(disk / "journal.log")
        held.append_logs([{"op_code": 0}])
        before = (disk / "journal.log").read_bytes()
        with pytest.raises(OSError, match="No space left"):
            held.append_logs([{"op_code": 1, "text": "x" * 4096}] * 20)
        assert (disk / "journal.log").read_bytes() == before
        held.append_logs([{"op_code": 2}])
        assert [log["op_code"] for log in held.read_logs(0)] == [0, 2]
        held.close()


def test_a_file_for_which_there_is_no_room_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        write_whole(disk / "card.json", "old")
        with pytest.raises(OSError, match="No space left") as raised:
            write_whole(disk / "card.json", bytes(128 * 1024))
        assert contents(disk) == {"card.json": b"old"}
        assert disk_fault(raised.value) is raised.value


def test_a_short_write_is_gone_on_with(tmp_path: Path) -> None:
    class Slow(FileIO):
        """Takes three bytes at a time, as a disk under a quota may."""

        def write(self, data: Any) -> int:
            return super().write(bytes(data[:3])) or 0

    (tmp_path / "file").write_bytes(b"old;")
    with Slow(tmp_path / "file", "a") as slow:
        append_whole(slow, b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"old;0123456789"


def test_a_full_disk_ends_a_search_in_this_process_and_costs_no_setting_an_attempt(
    home: Home, searched: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raybd.search import trial

    written, real = [], trial.save_weights

    def full(*arguments: object) -> None:
        written.append(1)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights.safetensors")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "save_weights", full)
    settings = home.settings(search={"trials": 4})
    with pytest.raises(OSError, match="No space left"):
        pipeline.search(settings, runs=home.runs)
    assert [record["error"] for record in home.card("search")["records"]] == ["", "interrupted"]
    pipeline.search(settings, runs=home.runs, resume=True)
    settled(home.run)
    assert figures(home.run) == figures(searched.run)
