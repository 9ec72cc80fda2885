"""Records that wait in the run folder, one JSON line each, and the lock that keeps two senders apart."""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO

from raybd.files import append_whole, write_whole
from raybd.registry import as_json, parse_json, revive, within
from raybd.tracking.records import Record

_FOLDER = re.compile(r"mlmodels/[\w-][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What a delivery did: records sent now, found already there, and still waiting (`reason` says why)."""

    sent: int
    already_there: int
    left: int
    reason: str = ""


class Outbox:
    """The file `outbox.jsonl` of one run folder; every line is on disk when `append` returns."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self.path = run_dir / "outbox.jsonl"
        self._lock_path = run_dir / ".tracking.lock"
        self._depth, self._holder = 0, uuid.uuid4().hex
        self.others_wrote = False
        self.keys = {record.key for record in self.records()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder's lock against other senders (re-entrant here).

        The lock file names its last holder: if that was another, `others_wrote` becomes true, and what was
        known of MLflow before no longer counts.
        """
        if self._depth:
            yield
            return
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("a+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel lets go of it even when we are killed
            self._sign(handle)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _sign(self, handle: TextIO) -> None:
        handle.seek(0)
        if handle.read() != self._holder:
            self.others_wrote = True
            handle.truncate(0)
            handle.write(self._holder)
            handle.flush()  # at once: a holder that is killed may have written to MLflow

    def append(self, record: Record) -> None:
        """Add a record, unless the same one waits already."""
        if record.key in self.keys:
            return
        line = json.dumps(as_json(record), allow_nan=False) + "\n"
        with self.locked(), self.path.open("ab", buffering=0) as file:
            if file.tell() and not self._ends_well():
                line = "\n" + line  # a line that a crash cut short must not swallow the next one
            append_whole(file, line.encode())
            os.fsync(file.fileno())
        self.keys.add(record.key)

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def records(self) -> list[Record]:
        """Return the waiting records, oldest first; a line that cannot be read is left in the file."""
        parsed = (self._parse(line) for line in self._lines())
        return [record for record in parsed if record is not None]

    def unreadable(self) -> int:
        """Return how many lines of the file hold no record."""
        return sum(self._parse(line) is None for line in self._lines())

    def drop(self, keys: Collection[str]) -> None:
        """Forget the records with these keys, and those another process dropped; an empty file goes."""
        with self.locked():
            lines = self._lines()
            kept = [line for line in lines if (record := self._parse(line)) is None or record.key not in keys]
            if not kept:
                self.path.unlink(missing_ok=True)
            elif len(kept) < len(lines):
                write_whole(self.path, b"".join(line + b"\n" for line in kept))
            self.keys = {record.key for line in kept if (record := self._parse(line)) is not None}

    def _lines(self) -> list[bytes]:
        if not self.path.exists():
            return []
        return [line for line in self.path.read_bytes().split(b"\n") if line]

    def _parse(self, line: bytes) -> Record | None:
        """The record in a line; None where it holds none, or one that reaches out of the run folder."""
        try:
            record: Record = revive(Record, parse_json(line))
        except ValueError:
            return None
        return record if self._stays(record) else None

    def _stays(self, record: Record) -> bool:
        """Whether a record sends, and removes once it is sent, only what lies in the run folder."""
        folder = [] if record.folder is None else [self._run_dir / record.folder]
        if folder and not _FOLDER.fullmatch(str(record.folder)):
            return False
        paths = [*folder, *(self._run_dir / path for path in record.files.values())]
        names = [PurePosixPath(name) for name in (*record.texts, *record.files)]
        return all(within(path, self._run_dir) for path in paths) and not any(
            name.is_absolute() or ".." in name.parts for name in names
        )
