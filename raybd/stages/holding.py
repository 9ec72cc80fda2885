"""One driver per run folder: whoever works in it holds it against all others, until their work is done."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from raybd.registry import BadInput

LOCK = ".lock"

_held: ContextVar[dict[Path, BinaryIO] | None] = ContextVar("held", default=None)


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is taken in the block until it ends; a block in another one lets go of nothing itself."""
    if _held.get() is not None:
        yield
        return
    held: dict[Path, BinaryIO] = {}
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
        for file in held.values():
            file.close()


def take(folder: Path) -> None:
    """Hold an existing run folder for this block of `keeping`; the kernel lets go of it also when we are killed.

    Raises:
        BadInput: if another driver holds it.
        LookupError: outside any such block.
    """
    held = _held.get()
    if held is None:
        raise LookupError(f"{folder}: taken outside of `keeping`, so it would never be let go")
    if folder in held:
        return
    file = (folder / LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BadInput(
            f"{folder}: another raybd is at work in this run folder; wait until it has ended, or stop it"
        ) from error
    except BaseException:
        file.close()
        raise
    held[folder] = file
