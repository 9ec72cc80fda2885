"""An S3 server on loopback, from the package registry, that can be frozen and stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import free_port

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "raybd",
    "AWS_SECRET_ACCESS_KEY": "planted-s3-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3:
    """moto's server as a process of its own session; its objects live as long as the process."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log = folder / "s3.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=1):
                return
            time.sleep(0.1)
        raise RuntimeError(self._log.read_text()[-2000:])

    def make_bucket(self, name: str) -> None:
        from pyarrow.fs import S3FileSystem

        there = S3FileSystem(endpoint_override=f"127.0.0.1:{self.port}", scheme="http", allow_bucket_creation=True)
        there.create_dir(name)

    def freeze(self) -> None:
        """Take connections and answer none, as a dead host does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[S3]:
    """A server with an empty bucket named `bucket`, and its credentials in the environment, while the block lasts."""
    server = S3(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server.start()
        server.make_bucket("bucket")
        try:
            yield server
        finally:
            server.stop()
