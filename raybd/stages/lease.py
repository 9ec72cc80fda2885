"""Who writes a run folder's copy on S3: a mark beside it, written again and again while its writer lives."""

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from raybd.registry import BadInput, read_json, write_json
from raybd.stages.bucket import Changed, Prefix

MARK = ".mirror.json"
"""Beside the copy and in the folder: who wrote the copy last."""
EVERY_SECONDS = 10.0
"""So often the mark is written again."""
SILENT_SECONDS = 120.0
"""A mark of this age, by S3's own clock, or unchanged for so long by ours, is of a machine that died."""
WAIT_SECONDS = 150.0
"""So long a machine that comes later waits for the mark to age, or to end."""
ASK_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Taken(BadInput):
    """Another machine has taken the copy over."""


@dataclass(frozen=True, kw_only=True)
class _Mark:
    holder: str
    ended: bool
    version: str
    age: float


class _Watch:
    """Whether a mark's holder has ended, by its own word or by its silence; not every S3 tells a mark's age."""

    def __init__(self) -> None:
        self._version, self._since = "", 0.0

    def free(self, mark: _Mark) -> bool:
        now = time.monotonic()
        if mark.version != self._version:
            self._version, self._since = mark.version, now
        return mark.ended or max(mark.age, now - self._since) >= SILENT_SECONDS


class Lease:
    """The right to write one copy; of one session, whose name the folder keeps. Threads may share it."""

    def __init__(self, copy: Prefix) -> None:
        self._copy = copy
        self._holder = uuid.uuid4().hex
        self._count, self._beaten = 0, 0.0
        self._lost = self._ended = False
        self._lock = threading.RLock()

    def claim(self, home: Path, *, may_take: Callable[[], bool]) -> None:
        """Make the mark ours, and note in `home` that it is; wait for a machine that may be at work, if need be.

        Args:
            home: the folder that the copy is, or becomes, of; what it notes is ours at once.
            may_take: whether what is not known to be ours may be taken, once nobody is at work in it. Asked each time
                after the mark is read: whoever writes between the two changes the mark, which is then not ours.

        Raises:
            BadInput: if the copy is another's and may not be taken, or its holder is still alive after the wait.
            StorageDown: if S3 does not answer.
        """
        ours, watch, deadline, waited = noted(home), _Watch(), time.monotonic() + WAIT_SECONDS, False
        while True:
            mark = self._mark()
            own = mark is not None and mark.holder in (self._holder, *ours)
            if not own and not may_take():
                raise BadInput(
                    f"cluster.storage: {self._copy.url} holds this run as another machine left it, which {home} does "
                    "not know of; move that folder away to go on with the copy"
                )
            if (own or mark is None or watch.free(mark)) and self._claimed(home, mark, own):
                return
            if time.monotonic() > deadline:
                raise BadInput(
                    f"cluster.storage: another machine is at work in {self._copy.url}; wait until it has ended, or "
                    "stop it"
                )
            if not waited:
                _log.warning(
                    "cluster.storage: another machine was at work in %s a moment ago; waiting up to %.0f s for it to "
                    "end or to fall silent", self._copy.url, WAIT_SECONDS
                )  # fmt: skip
            waited = True
            time.sleep(ASK_SECONDS)

    def _claimed(self, home: Path, mark: _Mark | None, own: bool) -> bool:
        """Try to write the mark; a kill on the way leaves it ours, because the folder knows both names."""
        before = mark.holder if mark is not None and own and mark.holder != self._holder else None
        write_json(home / MARK, {"holder": self._holder, "before": before})
        try:
            self._write(mark, ended=False)
        except Changed:
            return False
        return True

    def beat(self, *, ended: bool = False) -> None:
        """Write the mark again, if it is still ours.

        Raises:
            Taken: if it is not, now and ever after.
            StorageDown: if S3 does not take it.
        """
        with self._lock:
            mark = None if self._lost else self._mark()
            self._lost = self._lost or (mark is not None and mark.holder != self._holder)
            if self._lost:
                raise Taken(
                    f"cluster.storage: another machine has taken {self._copy.url} over, as this one was silent for too "
                    "long; nothing more is sent there"
                )
            self._write(mark, ended=ended)
            self._ended = ended

    def keep(self) -> None:
        """Write the mark again if it is time; to be called between two things that may take long.

        Raises:
            Taken, StorageDown: as `beat`.
        """
        with self._lock:
            late = time.monotonic() - self._beaten >= EVERY_SECONDS
            if self._lost or (late and not self._ended):
                self.beat()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Write the mark again and again beside the block, however long one transfer in it takes."""
        over = threading.Event()
        threading.Thread(target=self._beat_until, args=(over,), name="lease", daemon=True).start()
        try:
            yield
        finally:
            over.set()  # not waited for: what S3 does not answer must not hold up an end

    def _beat_until(self, over: threading.Event) -> None:
        while not over.wait(EVERY_SECONDS):
            with contextlib.suppress(Exception):  # whoever transfers meets it too, and says so
                self.keep()

    def _mark(self) -> _Mark | None:
        found = self._copy.read(MARK)
        if found is None:
            return None
        try:
            told = json.loads(found.content[:1000])
            holder, ended = str(told["holder"]), bool(told.get("ended", False))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"cluster.storage: {self._copy.url}/{MARK} is not raybd's ({error})") from error
        return _Mark(holder=holder, ended=ended, version=found.version, age=found.age)

    def _write(self, mark: _Mark | None, *, ended: bool) -> None:
        self._count += 1  # so that no two marks are the same version
        content = json.dumps({"holder": self._holder, "ended": ended, "count": self._count}).encode()
        self._copy.write(MARK, content, None if mark is None else mark.version)
        self._beaten = time.monotonic()


def noted(home: Path) -> Collection[str]:
    """Return by which names the copy's mark is that of a folder."""
    return [name for name in read_json(home / MARK).values() if name] if (home / MARK).is_file() else []
