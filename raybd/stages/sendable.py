"""What of a run folder goes into its copy, as it is at one moment; and the table of what was sent before."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from raybd.registry import BadInput, read_json, write_json
from raybd.stages.lease import MARK

SENT = ".mirror.sent"
"""In the folder: which version of the copy's files is which of ours, so that none is sent twice."""
_PASSING = (".draft", ".sent", ".tmp", ".lock")
_DATABASE = "mlflow.db"
"""MLflow's own file is written to at any time, so what is sent is what SQLite copies of it."""

State = tuple[int, int]
"""Size and time in nanoseconds of a file."""
Sent = tuple[int, int, str]
"""The state in which a file was sent, and its version on S3."""


def files(folder: Path) -> Iterator[tuple[str, State]]:
    """Yield the files that go into the copy of a folder, by their names in it."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        passing = name.endswith(_PASSING) or name.startswith((f"{_DATABASE}-", "search/ray/"))
        with contextlib.suppress(FileNotFoundError):  # a trial left the front meanwhile
            if path.is_file() and name != MARK and not passing:
                yield name, state(path)


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
    """A database as it is between two of its writes; one that SQLite does not open goes as it is, once all is over."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / path.name
        address = f"{path.absolute().as_uri()}?mode=rw"  # to undo a write that a kill cut short; makes no file
        try:
            closing = contextlib.closing
            with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(target)) as copy:
                source.backup(copy)
            return target.read_bytes()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not ended:
                raise
            return path.read_bytes()


def sent(folder: Path) -> dict[str, Sent]:
    """Return what a folder knows to have been sent; nothing, where that cannot be read: all is sent again."""
    try:
        table = read_json(folder / SENT) if (folder / SENT).is_file() else {}
        return {str(name): (int(size), int(time), str(version)) for name, (size, time, version) in table.items()}
    except (BadInput, ValueError, TypeError, AttributeError):
        return {}


def note_sent(folder: Path, table: Mapping[str, Sent | None]) -> None:
    """Write down what was sent; where the disk is full, it is sent once more than need be."""
    with contextlib.suppress(OSError):
        write_json(folder / SENT, {name: list(entry) for name, entry in table.items() if entry is not None})


def emptied(draft: Path, *, but: tuple[str, ...]) -> None:
    """Remove what an earlier fetch left in a folder, all but some of its files."""
    for path in sorted(draft.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path.relative_to(draft).as_posix() not in but:
            path.unlink()
