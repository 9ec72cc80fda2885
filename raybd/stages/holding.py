"""One driver per run folder: whoever works in it holds it against all others, and keeps its copy up, until the end."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from raybd.registry import BadInput
from raybd.settings import StudySettings
from raybd.stages.mirror import LOCK, Mirror
from raybd.stages.sending import sending


class _Kept:
    """What a block keeps: the run folders it holds, and the copies it keeps up."""

    def __init__(self) -> None:
        self.held: dict[Path, BinaryIO] = {}
        self.copies = ExitStack()

    def keep(self, folder: Path, lock: BinaryIO, mirror: Mirror | None) -> None:
        self.held[folder] = lock
        if mirror is not None:
            self.copies.enter_context(sending(mirror))


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what is taken in the block until it ends; a block in another one lets go of nothing itself.

    Raises:
        BadInput: after the block, if another machine took a copy over, or S3 refuses the rest of it.
        Outage: after the block, if S3 does not take the rest of a copy. A fault that ended the block comes first.
    """
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


def fetch(settings: StudySettings, runs: Path) -> None:
    """Bring a study's run folder from its copy on S3, where it is not here; hold it and keep its copy up from then on.

    It comes into `.NAME.fetch` and is given its name when all of it is there. The lock in it moves along.

    Raises:
        BadInput: if another driver is at work in it, here or on another machine; if S3 refuses.
        Outage: if S3 does not answer.
        LookupError: outside any block of `keeping`.
    """
    folder = (runs / settings.name).absolute()
    kept = _current(folder)
    if folder in kept.held or _there(folder):
        return
    mirror = _mirror(settings, folder)
    if mirror is None or not mirror.holds():
        return
    draft = folder.with_name(f".{folder.name}.fetch")
    try:
        lock = _drafted(draft, folder)
    except FileNotFoundError:  # another gave the draft its name just as we opened the lock in it
        if _there(folder):
            return
        lock = _drafted(draft, folder)
    try:
        if _there(folder):  # another fetched it just now, and has let go of it
            lock.close()
            return
        mirror.fetch(draft)
        draft.replace(folder)
    except BaseException:
        lock.close()
        raise
    kept.keep(folder, lock, mirror)


def take(settings: StudySettings, runs: Path) -> None:
    """Hold an existing run folder for this block of `keeping`, and then its copy on S3, where it has one.

    The kernel lets go of it also when we are killed.

    Raises:
        BadInput: if another driver holds it, here or on another machine; if S3 refuses.
        Outage: if S3 does not answer.
        LookupError: outside any such block.
    """
    folder = (runs / settings.name).absolute()
    kept = _current(folder)
    if folder in kept.held:
        return
    lock = _locked(folder, folder)
    try:
        mirror = _mirror(settings, folder)
        if mirror is not None:
            mirror.claim()
    except BaseException:
        lock.close()
        raise
    kept.keep(folder, lock, mirror)


def _current(folder: Path) -> _Kept:
    kept = _kept.get()
    if kept is None:
        raise LookupError(f"{folder}: taken outside of `keeping`, so it would never be let go")
    return kept


def _there(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _mirror(settings: StudySettings, folder: Path) -> Mirror | None:
    storage = settings.cluster.storage
    if storage is None or not storage.startswith("s3://"):
        return None
    return Mirror(folder, storage, settings.cluster.s3_endpoint)


def _drafted(draft: Path, folder: Path) -> BinaryIO:
    draft.mkdir(parents=True, exist_ok=True)
    return _locked(draft, folder)


def _locked(home: Path, folder: Path) -> BinaryIO:
    file = (home / LOCK).open("ab")
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
    return file
