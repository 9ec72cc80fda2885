"""A journal file held by one process at a time, its half-written end cut off."""

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO

from raybd.registry import BadInput


def hold(path: Path) -> BinaryIO:
    """Return the journal at `path`, made if need be, held against other processes until it is closed.

    A last line that a kill left half-written is cut off.

    Raises:
        BadInput: if another process holds it.
    """
    journal = path.open("ab+")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        journal.close()
        raise BadInput(f"{path.parent}: another process is searching in this folder") from error
    # Nobody else writes while we hold the journal, so a lock file of Optuna's own was left by a killed
    # process; it would hold us up for 30 seconds.
    Path(f"{path}.lock").unlink(missing_ok=True)
    journal.seek(0)
    content = journal.read()
    whole = _whole_lines(content)
    if whole < len(content):
        journal.truncate(whole)
        os.fsync(journal.fileno())
    return journal


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
