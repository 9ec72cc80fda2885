"""An `mlflow server` on loopback whose runs lie in a PostgreSQL of our own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.postgres import Postgres


@contextlib.contextmanager
def tracking_server(postgres: Postgres, folder: Path, *, workers: int = 1) -> Iterator[str]:
    """Give the address of a server that runs as long as the block, with a fresh database."""
    database = postgres.fresh_database().replace("://", "+psycopg://")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", str(workers), "--backend-store-uri", database),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = {**os.environ, **postgres.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        _wait(process, f"http://127.0.0.1:{port}", folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's processes
        process.wait()


def _wait(process: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(log.read_text(encoding="utf-8")[-2000:])
