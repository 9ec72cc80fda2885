"""A PostgreSQL of our own: an ordinary user's, on a free port of loopback, gone when the test is."""

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

USER = "raybd"
_PLACES = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")


def binaries() -> Path | None:
    """Return the folder of this machine's PostgreSQL, the newest if it has several; None if it has none."""
    found = [path.parent for pattern in _PLACES for path in Path("/").glob(f"{pattern}/initdb")]
    if found:
        return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))])
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def ordinary_user() -> str | None:
    """Return whom PostgreSQL, which refuses root, is run as; None if that is us, who are not root.

    Raises:
        KeyError: if we are root and there is nobody else.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise KeyError("no unprivileged user")


class Postgres:
    """A database cluster in a temporary folder, for the user `raybd`, whose password PGPASSWORD is to hold.

    It listens on 127.0.0.1 alone and is our child: it goes when we do, however we go.
    """

    def __init__(self) -> None:
        place = binaries()
        assert place is not None
        self._bin = place
        self._user = ordinary_user()
        # Not under pytest's folder, which only its owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        # To Linux the parent is a thread, whose end ends the server: not one that a test starts it in.
        self._parent = ThreadPoolExecutor(max_workers=1)
        self._made = 0
        self.password = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._make()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside the address."""
        return {"PGPASSWORD": self.password}

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def url(self, database: str = "postgres", *, driver: str = "") -> str:
        """Return a database's address, without its password; `driver="+psycopg"` for SQLAlchemy and MLflow."""
        return f"postgresql{driver}://{USER}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Make a new, empty database; return its address."""
        with self.connection() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def fresh_database(self) -> str:
        """Make a database that no other test has; return its address."""
        self._made += 1
        return self.database(f"d{self._made}")

    def connection(self, database: str = "postgres") -> psycopg.Connection:
        """Return a connection of our own, which commits each statement."""
        return psycopg.connect(self.url(database), password=self.password, autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Start the server; return when it answers."""
        assert self._process is None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with (self._folder / "log").open("ab") as log:
                self._process = self._parent.submit(
                    subprocess.Popen,
                    [*self._as_user("--pdeathsig", "QUIT"), str(self._bin / "postgres"), "-D", str(self._data)],
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    start_new_session=True,
                ).result()
            while self._process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(psycopg.OperationalError), self.connection():
                    return
                time.sleep(0.05)
            time.sleep(0.2)  # a killed server's children are still leaving
        raise RuntimeError(self.log[-2000:])

    def stop(self, *, immediate: bool = False) -> None:
        """Shut the server down as `pg_ctl stop -m fast` does, or, in the middle of all it does, as `-m immediate`."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self) -> None:
        """Kill the server as a machine's fault would; its children follow."""
        self._end(signal.SIGKILL)

    def restart(self, *, immediate: bool = True, downtime: float = 0) -> None:
        """Stop, stay away for `downtime` seconds, start again."""
        self.stop(immediate=immediate)
        time.sleep(downtime)
        self.start()

    def remove(self) -> None:
        """Stop the server and remove all it had."""
        if self._process is not None:
            self.stop(immediate=True)
        self._parent.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None

    def _as_user(self, *options: str) -> list[str]:
        who = ["--reuid", self._user, "--regid", str(pwd.getpwnam(self._user).pw_gid)] if self._user else []
        groups = ["--clear-groups"] if self._user else []
        return ["setpriv", *who, *groups, *options] if who or options else []

    def _make(self) -> None:
        secret = self._folder / "password"
        secret.write_text(self.password, encoding="utf-8")
        if self._user:
            for path in (self._folder, secret):
                shutil.chown(path, self._user, pwd.getpwnam(self._user).pw_gid)
        subprocess.run(
            [
                *self._as_user(),
                *(str(self._bin / "initdb"), "-D", str(self._data), "-U", USER, "-A", "scram-sha-256"),
                *("--pwfile", str(secret), "-E", "UTF8", "--locale", "C", "--no-sync"),
            ],
            check=True,
            cwd=self._folder,
            capture_output=True,
        )
        secret.unlink()
        settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": self.port,
            "unix_socket_directories": "''",
            "fsync": "off",  # it need not outlast the machine
            "max_connections": 200,
        }
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())


def why_not() -> str:
    """Return why no PostgreSQL can be run here; empty if one can."""
    if binaries() is None:
        return "PostgreSQL is not installed (initdb not found)"
    if shutil.which("setpriv") is None:
        return "setpriv, of util-linux, is not installed"
    try:
        ordinary_user()
    except KeyError:
        return "PostgreSQL refuses root, and there is no other user"
    return ""


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Give a server that runs; where none can, the test is skipped."""
    if reason := why_not():
        pytest.skip(reason)
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a session, which each take a database of their own; PGPASSWORD is set."""
    with running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", server.password)
        yield server
