"""A run folder's copy on S3, which outlives the machine it was made on: fetched before a stage, kept up during it."""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from raybd.registry import BadInput, read_json, write_json

MARK = ".mirror.json"
"""Beside the copy and in the folder: who wrote the copy last."""
EVERY_SECONDS = 10.0
"""So often what changed is sent while a stage runs."""
PATIENCE_SECONDS = 300.0
"""So long the last sending is tried again before the stage is called unsaved."""
_PASSING = (".draft", ".sent", ".tmp", ".lock")
_BUSY = "mlflow.db"
"""MLflow's own file is written to at any time while a stage runs, so it is sent only when the stage has ended."""


class Mirror:
    """The copy of one run folder. Weights are sent before the cards that speak of them: files go in order of age."""

    def __init__(self, folder: Path, url: str, endpoint: str | None) -> None:
        self._folder = folder
        self._url = f"{url.rstrip('/')}/{folder.name}"
        self._base = self._url.removeprefix("s3://")
        self._s3 = _s3(endpoint)
        self._sent: dict[str, tuple[int, int]] = {}
        self._claimed = False

    def fetch(self) -> int:
        """Bring the copy to the folder if that is not there; return how many files came.

        Raises:
            BadInput: if the folder is there, but another machine wrote the copy since; or if S3 cannot be read.
        """
        try:
            there = self._listed()
            holder = self._holder() if MARK in there else None
            if self._folder.exists():
                self._check_ours(holder)
                return 0
            for name, size in there.items():
                self._fetch(name, size)
        except OSError as error:
            raise BadInput(f"cluster.storage: {self._url} cannot be read ({_line(error)})") from error
        return len(there)

    def _check_ours(self, holder: str | None) -> None:
        mark = self._folder / MARK
        own = read_json(mark).values() if mark.is_file() else ()
        if holder is not None and holder not in own:
            raise BadInput(
                f"cluster.storage: {self._url} holds this run as another machine left it, which {self._folder} does "
                "not know of; move that folder away to go on with the copy"
            )

    def _claim(self) -> None:
        """Say, here and there, that this folder is what the copy is of; a kill in between leaves it ours."""
        mark = self._folder / MARK
        before = read_json(mark)["holder"] if mark.is_file() else None
        holder = uuid.uuid4().hex
        write_json(mark, {"holder": holder, "before": before})
        self._write(MARK, mark.read_bytes())
        self._claimed = True

    def send(self, *, ended: bool) -> int:
        """Send what changed and delete what went; return how many files. `ended`: nothing writes any more.

        Raises:
            OSError: if S3 does not take it; what was sent is sent, the rest waits for the next call.
        """
        if not self._folder.is_dir():
            return 0
        if not self._claimed:
            self._claim()
        files = {name: path.stat() for name, path in self._files() if ended or not name.startswith(_BUSY)}
        changed = [n for n, s in files.items() if self._sent.get(n) != (s.st_size, s.st_mtime_ns)]
        for name in sorted(changed, key=lambda name: files[name].st_mtime_ns):
            with contextlib.suppress(FileNotFoundError):  # a trial left the front meanwhile
                content = (self._folder / name).read_bytes()
                self._write(name, content)
                self._sent[name] = (files[name].st_size, files[name].st_mtime_ns)
        gone = [name for name in self._sent if name not in files and not name.startswith(_BUSY)]
        for name in gone:
            self._s3.delete_file(f"{self._base}/{name}")
            del self._sent[name]
        return len(changed) + len(gone)

    def settle(self) -> None:
        """Send the rest, again and again if need be.

        Raises:
            BadInput: if S3 did not take it for `PATIENCE_SECONDS`.
        """
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, 1.0
        while True:
            try:
                self.send(ended=True)
            except OSError as error:
                if time.monotonic() + pause > deadline:
                    raise BadInput(
                        f"cluster.storage: {self._url} cannot be written ({_line(error)}); all is kept in "
                        f"{self._folder}, repeat the command there when the storage is back"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 30.0)
            else:
                return

    def _listed(self) -> dict[str, int]:
        from pyarrow.fs import FileSelector, FileType

        found = self._s3.get_file_info(FileSelector(self._base, recursive=True, allow_not_found=True))
        return {each.path.removeprefix(f"{self._base}/"): each.size for each in found if each.type == FileType.File}

    def _fetch(self, name: str, size: int) -> None:
        """Bring one file; what others can write to must not reach outside the folder."""
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise BadInput(f"cluster.storage: {self._url} holds a file outside the run, {name!r}")
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._s3.open_input_stream(f"{self._base}/{name}") as stream:
            target.write_bytes(stream.read())
        if name != MARK:
            self._sent[name] = (size, target.stat().st_mtime_ns)

    def _holder(self) -> str | None:
        with self._s3.open_input_stream(f"{self._base}/{MARK}") as stream:
            try:
                return str(json.loads(stream.read(1000))["holder"])
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(f"cluster.storage: {self._url}/{MARK} is not raybd's ({error})") from error

    def _write(self, name: str, content: bytes) -> None:
        with self._s3.open_output_stream(f"{self._base}/{name}") as stream:
            stream.write(content)

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            if path.is_file() and name != MARK and not name.endswith(_PASSING) and not name.startswith("search/ray/"):
                yield name, path


@contextlib.contextmanager
def mirrored(folder: Path, url: str | None, endpoint: str | None = None) -> Iterator[None]:
    """Keep the copy of a run folder at `url` for as long as the block lasts, whatever ends it; nothing for None.

    While the block runs S3 may be down: what could not be sent is sent later.

    Args:
        folder: the run folder.
        url: `s3://BUCKET/PREFIX`; the copy lies below it, under the folder's name.
        endpoint: of an S3 server that is not AWS's, `http://HOST:PORT`.

    Raises:
        BadInput: if the copy is of another machine's folder, or S3 fails before or after the block.
    """
    if url is None:
        yield
        return
    mirror = Mirror(folder, url, endpoint)
    mirror.fetch()
    done = threading.Event()
    sender = threading.Thread(target=_keep_sending, args=(mirror, done), name="mirror", daemon=True)
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()
        mirror.settle()


def _keep_sending(mirror: Mirror, done: threading.Event) -> None:
    while not done.wait(EVERY_SECONDS):
        with contextlib.suppress(OSError):
            mirror.send(ended=False)


def _s3(endpoint: str | None) -> Any:
    """Credentials and region come from the environment, as for every client of S3."""
    from pyarrow.fs import S3FileSystem

    if endpoint is None:
        return S3FileSystem()
    parts = urlsplit(endpoint)
    return S3FileSystem(endpoint_override=parts.netloc, scheme=parts.scheme)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
