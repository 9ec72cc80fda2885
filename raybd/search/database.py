"""The PostgreSQL database that searches may share: how it is reached, and how one process holds a study in it."""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from raybd.addresses import without_password
from raybd.registry import BadInput, Outage

KEY = "cluster.optuna"
CONNECTION: dict[str, Any] = {
    # A network that is cut says nothing: without these a call waits for a quarter of an hour.
    "connect_timeout": 10,  # seconds, as the next three
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
"""How long libpq waits for a database that does not answer."""

# The same, as the server counts it: it lets go of the study of a machine that vanished.
_SERVER_SIDE = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
# What a server says that will not change its mind; psycopg gives no SQLSTATE of a connection that failed. In another
# language (its `lc_messages`) they are not known, and it counts as a database that is down.
_REFUSALS = ("password authentication failed", "no password supplied", "does not exist")
_SCHEMA_LOCK = int.from_bytes(b"raybd/db", "big", signed=True)
_SCHEMA_WAIT = "60s"


class Dropped(Exception):
    """The database did not answer a call, which may succeed when it is repeated."""


class DatabaseDown(Outage):
    """The database does not answer, or no longer belongs to us, so what was asked of it was not done."""


def database_url(storage: str) -> URL:
    """Return the address of a study's database, with the driver that raybd brings.

    Raises:
        BadInput: if it is no address of PostgreSQL, or holds a password; it is then not repeated.
    """
    without_password(storage, where=KEY, instead="PGPASSWORD")
    try:
        url = make_url(storage)
    except ArgumentError as error:
        raise BadInput(f"{KEY}: expected postgresql://USER@HOST:PORT/DATABASE, got what is no address") from error
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise BadInput(f"{KEY}: expected postgresql://USER@HOST:PORT/DATABASE, got {url.drivername}://")
    return url.set(drivername="postgresql+psycopg")


def place(url: URL) -> str:
    """Return how messages name a database."""
    return f"{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"


def explain(error: BaseException) -> str:
    """Return the first line of what a database said."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Hold:
    """A study that this process holds, by an advisory lock that the database drops with our connection."""

    def __init__(self, url: URL, study: str) -> None:
        self._url = url
        self._study = study
        self._lock = int.from_bytes(hashlib.sha256(f"raybd {study}".encode()).digest()[:8], "big", signed=True)
        self._name = f"raybd-{uuid.uuid4().hex}"  # by which our own earlier connection is known
        self._connection: Any = None
        self.closed = False
        self.lost = False

    def take(self) -> None:
        """Hold the study from now on.

        Raises:
            BadInput: if another process holds it, the server lets nobody of this name, password or database in, or the
                driver is not installed.
            DatabaseDown: if the database does not answer.
        """
        try:
            self.check()
        except ImportError as error:
            raise BadInput(f"{KEY}: PostgreSQL needs a driver; pip install 'raybd[cluster]' ({error})") from error
        except Dropped as error:
            refused = any(words in str(error) for words in _REFUSALS)
            kind, does = (BadInput, "does not let us in") if refused else (DatabaseDown, "does not answer")
            raise kind(
                f"{KEY}: PostgreSQL at {place(self._url)} {does} ({explain(error)}); check the address, "
                "that it runs, and that PGPASSWORD is set"
            ) from error

    def check(self) -> None:
        """See that the study is still held; if the database was away, take it again.

        Raises:
            Dropped: if the database does not answer.
            BadInput: if another process has taken the study.
        """
        import psycopg

        try:
            if self._connection is not None:
                self._connection.execute("SELECT 1")
                return
        except psycopg.OperationalError:
            self._connection.close()
        try:
            self._connection = self._taken()
        except psycopg.OperationalError as error:
            self._connection = None
            raise Dropped(explain(error)) from error

    def _taken(self) -> Any:
        import psycopg

        arguments = self._url.translate_connect_args(username="user", database="dbname")
        arguments |= {**CONNECTION, **self._url.query, "application_name": self._name}
        connection = psycopg.connect(**arguments, autocommit=True)
        taken = False
        try:
            connection.execute(_SERVER_SIDE)
            # After a cut the server may still keep our own earlier connection, and the lock with it.
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = %s AND pid <> pg_backend_pid()",
                [self._name],
            )
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [self._lock]).fetchone()
            taken = row is not None and bool(row[0])
        finally:
            if not taken:
                connection.close()
        if not taken:
            raise BadInput(
                f"{KEY}: another process is searching in the study '{self._study}' at {place(self._url)}; one that was "
                "lost with its machine is forgotten within half a minute"
            )
        return connection

    @contextmanager
    def making_tables(self) -> Iterator[None]:
        """Keep others from making Optuna's tables at the same moment, which PostgreSQL does not bear."""
        self._connection.execute(f"SET lock_timeout = '{_SCHEMA_WAIT}'")
        self._connection.execute("SELECT pg_advisory_lock(%s)", [_SCHEMA_LOCK])
        try:
            yield
        finally:
            self._connection.execute("SELECT pg_advisory_unlock(%s)", [_SCHEMA_LOCK])

    def sync(self) -> None:
        """Do nothing: what the database has answered is on its disk."""

    def close(self) -> None:
        """Let the study go."""
        self.closed = True
        if self._connection is not None:
            self._connection.close()
