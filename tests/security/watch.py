"""A watch over this process: whatever a loader may not do is noted by Python's own audit events."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORBIDDEN = frozenset(
    {
        *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"),
        *("pickle.find_class", "socket.connect", "shutil.rmtree", "os.remove", "os.rmdir", "os.kill"),
    }
)
"""`pickle.find_class` is what the ordinary unpickler does before it calls anything; torch's own is none of it."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    """What is watched over now: the folder that may be written to, None while nobody watches, and what was seen."""

    folder: str | None = None
    seen: list[str]


_NOW = _Watch()


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _NOW.folder is None:
        return
    if event in FORBIDDEN:
        _NOW.seen.append(f"{event} {arguments!r:.200}")
    if event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & _WRITING:
        name = os.path.realpath(os.fsdecode(arguments[0]))
        if not name.startswith(_NOW.folder) and "__pycache__" not in name and name != os.devnull:
            _NOW.seen.append(f"writes to {name}")


def _hook() -> None:
    if not hasattr(_NOW, "seen"):
        _NOW.seen = []
        sys.addaudithook(_listen)  # for good: Python lets nobody take one away


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Give the list of all that is done in this process, in the block, and is not allowed outside `folder`."""
    _hook()
    _NOW.seen = seen = []
    _NOW.folder = str(folder.resolve())
    try:
        yield seen
    finally:
        _NOW.folder = None
