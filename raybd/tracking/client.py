"""How MLflow is reached: the address, the process environment, and which errors mean that it is down."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raybd.addresses import without_password
from raybd.registry import BadInput, Outage, nearest

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")

_ENVIRONMENT = {
    # MLflow's own retries stall a search for four minutes per call, and they repeat POST requests whose
    # answer was lost, which creates a run twice. The outbox retries instead, and looks before it creates.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}

_OUTAGES = {
    "ABORTED",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL_ERROR",
    "IO_ERROR",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "SERVICE_UNDER_MAINTENANCE",
    "TEMPORARILY_UNAVAILABLE",
    "UNPARSEABLE_HTTP_ERROR",
    "WORKSPACE_TEMPORARILY_UNAVAILABLE",
}


class Unreachable(Outage):
    """MLflow does not answer, so what was asked of it was not done."""


def connect(uri: str) -> Any:
    """Return an `MlflowClient` for the runs and the registry at `uri`; importing mlflow takes two seconds.

    Raises:
        BadInput: if a database's driver is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # A database that fails is told of once, by what was asked of it; these would print a traceback as well.
    for name in ("sqlalchemy.pool", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except ImportError as error:
        raise BadInput(f"tracking.uri: {uri} needs a database driver that is not installed ({error})") from error


def open_uri(uri: str) -> str:
    """Return `uri` if it holds no password, which would be copied into the run.

    Raises:
        BadInput: if it holds one; it is not repeated.
    """
    instead = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for PostgreSQL PGPASSWORD"
    without_password(uri, where="tracking.uri", instead=instead)
    return uri


def resolve_uri(uri: str | None, run_dir: Path, base: Path | None = None) -> str:
    """Return the absolute address of MLflow; without one it is an SQLite file in the run folder.

    A relative `sqlite:///FILE` counts from `base` (the study's folder), or else from the run folder: never from
    the working directory, which is another one for the next command.

    Raises:
        BadInput: for a folder (MLflow no longer writes there), an unknown scheme, or a password in it.
    """
    if uri is None:
        return f"sqlite:///{run_dir.resolve() / 'mlflow.db'}"
    parts = urlsplit(open_uri(uri))
    scheme = parts.scheme.split("+")[0]
    if scheme in ("", "file") or len(scheme) == 1:
        raise BadInput(
            f"tracking.uri: got {uri!r}, a folder, where MLflow no longer keeps runs; "
            "expected http://HOST:PORT, sqlite:///FILE, or null for SQLite in the run folder"
        )
    if scheme not in _SCHEMES:
        raise BadInput(f"tracking.uri: unknown scheme '{scheme}' in {uri!r}{nearest(scheme, _SCHEMES)}")
    return _absolute_sqlite(uri, base or run_dir) if scheme == "sqlite" else uri


def _absolute_sqlite(uri: str, base: Path) -> str:
    head, separator, file = uri.partition(":///")
    if not separator or not file or file == ":memory:":
        raise BadInput(f"tracking.uri: expected sqlite:///FILE, got {uri!r}")
    return f"{head}:///{(base / file).resolve()}"


def artifact_root(uri: str, run_dir: Path) -> str | None:
    """Return where artifacts go: beside a database, whereas a server decides for itself (None)."""
    if uri.startswith("http"):
        return None
    beside = Path(uri.partition(":///")[2]).parent if uri.startswith("sqlite") else run_dir.resolve()
    return (beside / "mlartifacts").as_uri()


def is_outage(error: Exception) -> bool:
    """Tell whether repeating the call later may help; a refused call or a missing file stays as it is."""
    if isinstance(error, FileNotFoundError | BadInput):
        return False
    return getattr(error, "error_code", "INTERNAL_ERROR") in _OUTAGES


def check_let_in(uri: str, error: Exception | None) -> None:
    """See that a call did not fail for want of another user or password.

    Raises:
        BadInput: if it did.
    """
    if error is not None and getattr(error, "error_code", "") == "UNAUTHENTICATED":
        raise BadInput(
            f"tracking.uri: MLflow at {uri} does not let us in ({explain(error)}); expected a user and password that "
            "it knows in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        ) from error


def is_missing(error: Exception) -> bool:
    """Tell whether MLflow answered that the thing asked for does not exist."""
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def explain(error: Exception) -> str:
    """Return one line that says what went wrong, with a way out where we know one."""
    text = " ".join(str(error).split())
    if "Invalid Host header" in text:
        return "the server refuses this host name; start it with --allowed-hosts, or use its IP address"
    return text if len(text) <= 300 else text[:299] + "…"


@contextmanager
def speaking(uri: str, doing: str) -> Iterator[Any]:
    """Give a client; what MLflow raises inside becomes `BadInput`, `Unreachable` when it does not answer."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield connect(uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if is_outage(error):
            raise Unreachable(
                f"tracking.uri: MLflow at {uri} does not answer, so {doing}; "
                f"repeat it when the server is back ({explain(error)})"
            ) from error
        raise BadInput(f"tracking.uri: MLflow at {uri} refused, so {doing} ({explain(error)})") from error
