"""One driver per run folder: whoever works in it holds it against all others, and keeps its copy up, until the end."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from raybd.registry import BadInput
from raybd.settings import StudySettings
from raybd.stages.mirror import mirrored

LOCK = ".lock"


class _Kept:
    """What a block keeps: the run folders it holds, and the copies it keeps up."""

    def __init__(self) -> None:
        self.held: dict[Path, BinaryIO] = {}
        self.copied: set[Path] = set()
        self.copies = ExitStack()


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is taken in the block until it ends; a block in another one lets go of nothing itself."""
    if _kept.get() is not None:
        yield
        return
    kept = _Kept()
    token = _kept.set(kept)
    try:
        with kept.copies:  # ended first: nobody else writes while the last is sent
            yield
    finally:
        _kept.reset(token)
        for file in kept.held.values():
            file.close()


def copy(settings: StudySettings, runs: Path) -> None:
    """Bring a study's run folder from its copy on S3, where it has one, and keep that up for this block of `keeping`.

    Raises:
        BadInput: if the copy is of another machine's folder, or S3 cannot be read.
        LookupError: outside any such block.
    """
    folder, storage = (runs / settings.name).absolute(), settings.cluster.storage
    kept = _current(folder)
    if storage is None or not storage.startswith("s3://") or folder in kept.copied:
        return
    kept.copies.enter_context(mirrored(folder, storage, settings.cluster.s3_endpoint))
    kept.copied.add(folder)


def _current(folder: Path) -> _Kept:
    kept = _kept.get()
    if kept is None:
        raise LookupError(f"{folder}: taken outside of `keeping`, so it would never be let go")
    return kept


def take(folder: Path) -> None:
    """Hold an existing run folder for this block of `keeping`; the kernel lets go of it also when we are killed.

    Raises:
        BadInput: if another driver holds it.
        LookupError: outside any such block.
    """
    held = _current(folder).held
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
