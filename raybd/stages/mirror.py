"""A run folder's copy on S3, which outlives the machine it was made on: fetched before a stage, kept up during it."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from raybd.files import write_whole
from raybd.registry import BadInput, Outage
from raybd.stages import lease, sendable
from raybd.stages.bucket import Prefix, StorageDown
from raybd.stages.lease import MARK, Lease, Taken, noted
from raybd.stages.sendable import Sent

PATIENCE_SECONDS, BRIEFLY_SECONDS = 300.0, 15.0
"""So long the last sending is tried again before the stage is called unsaved; and so long where it was interrupted."""

LOCK = ".lock"
"""Held by whoever works in the folder."""

_log = logging.getLogger(__name__)


class Mirror:
    """The copy of one run folder. Weights are sent before the cards that speak of them: files go in order of age."""

    def __init__(self, folder: Path, url: str, endpoint: str | None) -> None:
        self._folder = folder
        self._copy = Prefix(f"{url.rstrip('/')}/{folder.name}", endpoint)
        self._lease = Lease(self._copy)
        self._sent: dict[str, Sent | None] = {}  # None: there, but not known to be what we have

    def holds(self) -> bool:
        """Whether there is a copy to fetch.

        Raises:
            BadInput, Outage: if S3 refuses, or does not answer.
        """
        with self._reading():
            return bool(self._copy.listed().keys() - {MARK})

    def fetch(self, draft: Path) -> None:
        """Make the copy ours and bring it to a folder, which the caller then gives its name.

        Raises:
            BadInput: if another machine is at work in it, or it holds what is no run folder's; or if S3 refuses.
            Outage: if S3 does not answer.
        """
        sendable.emptied(draft, but=(MARK, LOCK))
        with self._reading():
            self._lease.claim(draft, over_others=True)
            try:
                for name in self._copy.listed().keys() - {MARK}:
                    self._lease.keep()
                    self._fetch(draft, name)
            except BaseException:
                with contextlib.suppress(StorageDown, BadInput):
                    self._lease.beat(ended=True)
                raise
        sendable.note_sent(draft, self._sent)

    def claim(self) -> None:
        """Make the copy that of the folder, which is there.

        Raises:
            BadInput: if another machine wrote the copy since, or is at work in it; or if S3 refuses.
            Outage: if S3 does not answer.
        """
        known = sendable.sent(self._folder) if noted(self._folder) else {}
        with self._reading():
            nothing_lost = not self._copy.listed().keys() - {MARK}
            self._lease.claim(self._folder, over_others=nothing_lost)
            for name, version in self._copy.listed().items():
                entry = known.get(name)
                self._sent[name] = entry if entry is not None and entry[2] == version else None
        self._sent.pop(MARK, None)

    def send(self, *, ended: bool) -> int:
        """Send what changed and delete what went; return how many files. `ended`: nothing writes any more.

        Raises:
            Taken: if the copy is no longer ours; nothing is sent.
            StorageDown: if S3 does not take it; what was sent is sent, the rest waits for the next call.
        """
        if not self._folder.is_dir():
            return 0
        self._lease.beat()
        files = dict(sendable.files(self._folder))
        changed = [name for name, state in files.items() if (self._sent.get(name) or ())[:2] != state]
        gone = self._sent.keys() - files.keys()
        try:
            for name in sorted(changed, key=lambda name: files[name][1]):
                self._lease.keep()
                content = sendable.content(self._folder / name, ended=ended)
                if content is not None:
                    self._sent[name] = (*files[name], self._copy.write(name, content))
            for name in gone:
                self._lease.keep()
                self._copy.delete(name)
                del self._sent[name]
        finally:
            if changed or gone:
                sendable.note_sent(self._folder, self._sent)
        if ended:
            self._lease.beat(ended=True)
        return len(changed) + len(gone)

    def settle(self, patience: float) -> None:
        """Send the rest, again and again if need be, and say beside the copy that we have ended.

        Raises:
            Taken: if the copy is no longer ours.
            Outage: if S3 did not take it for `patience` seconds.
        """
        deadline, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                self.send(ended=True)
            except StorageDown as error:
                if time.monotonic() + pause > deadline:
                    raise Outage(
                        f"cluster.storage: {self._copy.url} cannot be written ({error}); all is kept in {self._folder}"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 30.0)
            else:
                return

    def _fetch(self, draft: Path, name: str) -> None:
        """Bring one file; what others can write to must not reach outside the folder."""
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise BadInput(f"cluster.storage: {self._copy.url} holds a file outside the run, {name!r}")
        found = self._copy.read(name)
        if found is not None:
            write_whole(draft / name, found.content)
            self._sent[name] = (*sendable.state(draft / name), found.version)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except StorageDown as error:
            kind = BadInput if error.refused else Outage
            raise kind(f"cluster.storage: {self._copy.url} cannot be read ({error})") from error


@contextlib.contextmanager
def sending(mirror: Mirror) -> Iterator[None]:
    """Keep a copy that is ours up for as long as the block lasts, whatever ends it.

    While the block runs S3 may be down: what could not be sent is sent later. What ends the block is never hidden.

    Raises:
        Taken: after the block, if another machine has taken the copy over.
        Outage: after the block, if S3 does not take the rest.
    """
    done = threading.Event()
    sender = threading.Thread(target=_keep_sending, args=(mirror, done), name="mirror", daemon=True)
    sender.start()

    def settle(patience: float) -> None:
        done.set()
        sender.join()
        mirror.settle(patience)

    try:
        yield
    except BaseException as error:
        try:
            settle(PATIENCE_SECONDS if isinstance(error, Exception) else BRIEFLY_SECONDS)
        except (Outage, BadInput, OSError) as second:
            _log.warning("%s", second)
        raise
    settle(PATIENCE_SECONDS)


def _keep_sending(mirror: Mirror, done: threading.Event) -> None:
    while True:  # at once, too: others are to see more than the mark
        try:
            mirror.send(ended=False)
        except Taken as error:
            _log.warning("%s", error)
            return
        except (StorageDown, OSError):
            pass
        if done.wait(lease.EVERY_SECONDS):
            return
