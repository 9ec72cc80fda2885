"""Files that are whole or not there, written in one step or not at all; and what a full or broken disk says."""

import errno
import os
import re
from io import FileIO
from pathlib import Path

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
_CODE = re.compile(r"(?:\(os error |\[Errno )(\d+)[)\]]")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`: a reader, also after a crash, sees the old file or the new one, never half of it.

    Raises:
        OSError: if the disk is full or cannot be written; the old file stays, and no draft.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else a machine that dies may leave the new name on an empty file
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def append_whole(file: FileIO, content: bytes) -> None:
    """Append `content` to `file`, which is open for appending and unbuffered, or leave it as it was.

    Raises:
        OSError: if the disk is full or cannot be written.
    """
    end = file.seek(0, os.SEEK_END)
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:
        file.truncate(end)  # what comes after half a line could not be read
        raise


def disk_fault(error: BaseException) -> OSError | None:
    """Return what a full, broken or read-only disk said, where that is what raised `error`; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return seen
        found = told_by_disk(str(seen))
        if found is not None:
            return found
        seen = seen.__cause__ or seen.__context__
    return None


def told_by_disk(text: str) -> OSError | None:
    """Return the same from an error's text, which is all that another process, or a library in Rust, tells of it."""
    code = _CODE.search(text)
    if code is None or int(code[1]) not in _DISK:
        return None
    return OSError(int(code[1]), f"{os.strerror(int(code[1]))} ({text.strip()})")
