"""The journal of a search: one file, held by one process, appended to whole line by whole line."""

import fcntl
import json
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Self

from optuna.storages.journal import BaseJournalBackend

from raybd.files import append_whole
from raybd.registry import BadInput

_LINE = b'{"op_code":'
"""Begins every line that Optuna writes."""


class HeldJournal(BaseJournalBackend):
    """Optuna's journal file, without its lock and with a sync where we say, not after each of a dozen lines.

    A line written survives our death; one that is synced also survives the machine's.
    """

    lost = False  # the kernel takes a lock from nobody

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._place = (0, 0)  # a line's number and where it begins

    @classmethod
    def hold(cls, path: Path) -> Self:
        """Return the journal at `path`, made if need be, held against other processes until it is closed.

        A last line that a kill left half-written is cut off.

        Raises:
            BadInput: if another process holds it, or it ends in what no kill can have left; it is left as it was.
        """
        file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise BadInput(f"{path.parent}: another process is searching in this folder") from error
        file.seek(0)
        content = file.read()
        whole = _whole_lines(content)
        if not _half_written(content[whole:]):
            file.close()
            raise BadInput(f"{path}: its end is none of a journal of a search; the file was changed, and is left so")
        if whole < len(content):
            file.truncate(whole)
        return cls(file)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line for each log."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        append_whole(self._file, lines.encode())

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the logs from a number on."""
        number, place = self._place if self._place[0] <= log_number_from else (0, 0)
        self._file.seek(place)
        for line in self._file.read().splitlines(keepends=True):
            number, place = number + 1, place + len(line)
            self._place = (number, place)
            if number > log_number_from:
                yield json.loads(line)

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        os.fsync(self._file.fileno())

    @property
    def closed(self) -> bool:
        """Whether the journal was let go."""
        return self._file.closed

    def close(self) -> None:
        """Let the journal go."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()


def _whole_lines(content: bytes) -> int:
    """How many bytes of `content` are whole lines, the last of them JSON."""
    end = content.rfind(b"\n") + 1
    if end == 0:
        return 0
    start = content.rfind(b"\n", 0, end - 1) + 1
    try:
        json.loads(content[start:end])
    except ValueError:
        return start
    return end


def _half_written(rest: bytes) -> bool:
    """Whether what follows the whole lines may be the beginning of another: of its text, or of the room made for it."""
    return rest.startswith(_LINE[: len(rest)]) or not rest.strip(b"\0")
