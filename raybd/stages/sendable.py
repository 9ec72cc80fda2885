"""What of a run folder goes into its copy, as it is at one moment; and the table of what was sent before."""

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from raybd.registry import BadInput, read_json, write_json
from raybd.stages.lease import MARK

SENT = ".mirror.sent"
"""In the folder: which version of the copy's files is which of ours, so that none is sent twice."""
_PASSING = (".draft", ".sent", ".tmp", ".lock")
_RAY = "search/ray"
"""Ray's own, of this machine."""
_DATABASE = "mlflow.db"
"""MLflow's own file is written to at any time, so what is sent is what SQLite copies of it."""
LOCKED_SECONDS = 5.0
"""So long a copying waits for whoever holds the database locked."""

State = tuple[int, int]
"""Size and time in nanoseconds of a file."""
Sent = tuple[int, int, str]
"""The state in which a file was sent, and its version on S3."""


def belongs(name: str) -> bool:
    """Whether a file of this name in a run folder is part of the run: only such are sent, and only such fetched."""
    try:
        name.encode()  # as every name on S3
    except UnicodeEncodeError:
        return False
    return name != MARK and not name.endswith(_PASSING) and not name.startswith((f"{_DATABASE}-", f"{_RAY}/"))


def files(folder: Path) -> Iterator[tuple[str, State]]:
    """Yield the files that go into the copy of a folder, by their names in it.

    Raises:
        OSError: if a part of the folder cannot be read: what it holds is then not known, least of all to be gone.
    """
    for home, folders, names in os.walk(folder, onerror=_unless_gone):
        folders[:] = sorted(each for each in folders if (Path(home) / each).relative_to(folder).as_posix() != _RAY)
        for path in (Path(home) / each for each in sorted(names)):
            name = path.relative_to(folder).as_posix()
            with contextlib.suppress(FileNotFoundError):  # a trial left the front meanwhile
                if belongs(name) and path.is_file():
                    yield name, state(path)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def state(path: Path) -> State:
    """Return by what a file is known to have changed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def content(path: Path, *, ended: bool) -> bytes | None:
    """Return what to send of a file; None if it is gone, or cannot be copied while others write to it."""
    try:
        return _snapshot(path, ended=ended) if path.name == _DATABASE else path.read_bytes()
    except (FileNotFoundError, sqlite3.OperationalError):
        return None


def _snapshot(path: Path, *, ended: bool) -> bytes:
    """A database as it is between two of its writes; one that SQLite does not open goes as it is, once all is over.

    One that somebody keeps locked does not: it may be in the middle of a write.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / path.name
        address = f"{path.absolute().as_uri()}?mode=rw"  # to undo a write that a kill cut short; makes no file
        try:
            closing = contextlib.closing
            with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(target)) as copy:
                source.backup(copy, progress=_impatient(), sleep=0.1)
            return target.read_bytes()
        except _Locked:
            raise
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not ended:
                raise
            return path.read_bytes()


class _Locked(sqlite3.OperationalError):
    """Somebody else did not let go of the database."""


def _impatient() -> Callable[[int, int, int], None]:
    """What SQLite calls after each attempt, of which it would make any number."""
    deadline = time.monotonic() + LOCKED_SECONDS

    def check(status: int, remaining: int, total: int) -> None:  # noqa: ARG001 - SQLite gives all three
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise _Locked("the database is locked")

    return check


def sent(folder: Path) -> dict[str, Sent]:
    """Return what a folder knows to have been sent; nothing, where that cannot be read: all is sent again."""
    try:
        table = read_json(folder / SENT) if (folder / SENT).is_file() else {}
        return {str(name): (int(size), int(time), str(version)) for name, (size, time, version) in table.items()}
    except (BadInput, ValueError, TypeError, AttributeError):
        return {}


def note_sent(folder: Path, table: Mapping[str, Sent]) -> None:
    """Write down what was sent; where the disk is full, it is sent once more than need be."""
    with contextlib.suppress(OSError):
        write_json(folder / SENT, {name: list(entry) for name, entry in table.items()})


def emptied(draft: Path, *, but: tuple[str, ...]) -> None:
    """Remove what an earlier fetch left in a folder, all but some of its files."""
    for path in sorted(draft.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.relative_to(draft).as_posix() not in but:
            path.unlink()
