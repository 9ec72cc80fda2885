"""A run folder's copy on S3, which outlives the machine it was made on: fetched before a stage, kept up during it."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from raybd.files import write_whole
from raybd.registry import BadInput, Outage
from raybd.stages import sendable
from raybd.stages.bucket import Changed, Prefix, StorageDown
from raybd.stages.lease import MARK, Lease, noted
from raybd.stages.sendable import Sent, State

LOCK = ".lock"
"""Held by whoever works in the folder."""
_OTHER: State = (-1, -1)
"""Of no file: what is there is not known to be what we have."""


def _never() -> bool:
    return False


class Mirror:
    """The copy of one run folder. Weights are sent before the cards that speak of them: files go in order of age."""

    def __init__(self, folder: Path, url: str, endpoint: str | None) -> None:
        self._folder = folder
        self._copy = Prefix(f"{url.rstrip('/')}/{folder.name}", endpoint)
        self._lease = Lease(self._copy)
        self._sent: dict[str, Sent] = {}

    def holds(self) -> bool:
        """Whether there is a copy to fetch.

        Raises:
            BadInput, Outage: if S3 refuses, or does not answer.
        """
        with self._reading():
            return bool(self._listed())

    def fetch(self, draft: Path) -> None:
        """Make the copy ours and bring it to a folder, which the caller then gives its name.

        Raises:
            BadInput: if another machine is at work in it, or it holds what is no run folder's; or if S3 refuses.
            Outage: if S3 does not answer.
        """
        sendable.emptied(draft, but=(MARK, LOCK))
        with self._reading():
            self._lease.claim(draft, may_take=lambda: True)
            with self._lease.beating():
                try:
                    for name in self._checked(self._listed()):
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
            BadInput: if it holds what another machine wrote since, or one is at work in it; or if S3 refuses.
            Outage: if S3 does not answer.
        """
        known = sendable.sent(self._folder) if noted(self._folder) else {}
        with self._reading():
            self._lease.claim(self._folder, may_take=lambda: not self._listed())
            for name, version in self._listed().items():
                entry = known.get(name)
                same = entry is not None and entry[2] == version
                self._sent[name] = entry if entry is not None and same else (*_OTHER, version)

    def beating(self) -> contextlib.AbstractContextManager[None]:
        """Say beside the copy, for as long as the block lasts, that its writer lives."""
        return self._lease.beating()

    def send(self, *, ended: bool, stop: Callable[[], bool] = _never) -> None:
        """Send what changed and delete what went.

        Args:
            ended: nothing writes any more.
            stop: asked between two files; once true, the rest is left for the next call.

        Raises:
            Taken: if the copy is no longer ours; nothing more is sent.
            StorageDown: if S3 does not take it; what was sent is sent, the rest waits for the next call.
        """
        if not self._folder.is_dir():
            return
        self._lease.beat()
        files = dict(sendable.files(self._folder))
        changed = [name for name, state in files.items() if self._sent.get(name, _OTHER)[:2] != state]
        todo = [*sorted(changed, key=lambda name: files[name][1]), *(self._sent.keys() - files.keys())]
        try:
            for name in todo:
                if stop():
                    return
                self._lease.keep()
                self._bring_up(name, files.get(name), ended=ended)
        finally:
            if todo:
                sendable.note_sent(self._folder, self._sent)
        if ended:
            self._lease.beat(ended=True)

    def settle(self, patience: float, stop: Callable[[], bool] = _never) -> None:
        """Send the rest, again and again if need be, and say beside the copy that we have ended.

        `stop` is asked between two files; once true, the rest is not sent.

        Raises:
            Taken: if the copy is no longer ours.
            BadInput: if S3 refuses it.
            Outage: if S3 did not take it for `patience` seconds.
        """
        deadline, pause = time.monotonic() + patience, 1.0
        while not stop():
            try:
                self.send(ended=True, stop=stop)
            except StorageDown as error:
                if error.refused or time.monotonic() + pause > deadline:
                    kind = BadInput if error.refused else Outage
                    raise kind(self.unsaved(str(error))) from error
                time.sleep(pause)
                pause = min(2 * pause, 30.0)
            else:
                return

    def unsaved(self, why: str) -> str:
        """Return what to tell of a copy that lacks the rest."""
        return f"cluster.storage: {self._copy.url} cannot be written ({why}); all is kept in {self._folder}"

    def _listed(self) -> dict[str, str]:
        """Return the versions of the files that a run folder may hold; others are none of ours."""
        return {name: version for name, version in self._copy.listed().items() if sendable.belongs(name)}

    def _checked(self, names: Collection[str]) -> Collection[str]:
        """See that files of such names can lie in a folder, and only there: others can write to the copy."""
        for name in names:
            path = PurePosixPath(name)
            odd = ".." in path.parts or path.is_absolute() or path.as_posix() != name or not path.name
            if odd or any(parent.as_posix() in names for parent in path.parents):
                raise BadInput(f"cluster.storage: {self._copy.url} holds a file outside the run, {name!r}")
        return names

    def _fetch(self, draft: Path, name: str) -> None:
        found = self._copy.read(name)
        if found is not None:
            write_whole(draft / name, found.content)
            self._sent[name] = (*sendable.state(draft / name), found.version)

    def _bring_up(self, name: str, state: State | None, *, ended: bool) -> None:
        """Send one file; delete it, where the folder has it no more."""
        if state is None:
            self._copy.delete(name)
            del self._sent[name]
            return
        content = sendable.content(self._folder / name, ended=ended)
        if content is not None:
            self._sent[name] = (*state, self._written(name, content))
        elif ended and (self._folder / name).is_file():  # there is no later in which it could be sent
            raise StorageDown(f"another process keeps {name} locked")

    def _written(self, name: str, content: bytes) -> str:
        """Write a file over the version we know of, so that what a later writer sent is never written over."""
        known = self._sent.get(name)
        try:
            return self._copy.write(name, content, None if known is None else known[2])
        except Changed:  # by another machine, or by us: a writing whose answer was lost
            self._lease.beat()
            return self._copy.write(name, content, self._copy.version(name))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except StorageDown as error:
            kind = BadInput if error.refused else Outage
            raise kind(f"cluster.storage: {self._copy.url} cannot be read ({error})") from error
