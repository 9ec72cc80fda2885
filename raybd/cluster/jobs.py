"""Ray's job server: one job at a time for each study, found again by the study's name."""

import asyncio
import importlib.util
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raybd import __version__
from raybd.cluster.parcel import Parcel, pack
from raybd.registry import BadInput, Outage, is_file
from raybd.settings import StudySettings
from raybd.settings.cluster import job_server

State = Literal["waiting", "running", "done", "nothing feasible", "refused", "stopped", "failed"]

NOTHING_FEASIBLE, REFUSED, INTERRUPTED = 3, 4, 130
"""Exit codes of `raybd run` that are no failures; the fourth is 0."""
STOP_SECONDS = 60
"""So long a stopped job has to end its trials in order, before Ray kills it."""
STOP_PATIENCE = 2 * STOP_SECONDS
"""So long `stop` waits for the end."""
LAST_LINES = 10
SUBMITTED = "RAYBD_SUBMITTED"
"""In a submitted job's environment: what its user called the study, for the commands that a message repeats."""
_SERVER = "RAY_API_SERVER_ADDRESS"
_UNWELL = re.compile(r"status code 5\d\d")
"""What Ray's client says of a head that starts, or of a proxy before one that is gone; else it was refused."""
_CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""Ray's loggers that tell of each package on its way."""
_PROGRESS = re.compile(r"\d+(?: of \d+)? trials done.*")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A study's latest job: `progress` is what its log last said of the search, `log` its last lines."""

    name: str
    state: State
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    message: str = ""
    progress: str = ""
    log: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state not in ("waiting", "running")


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job that was just submitted, what travelled with it, and what the cluster has to have itself.

    `run` is its run folder; `durable` says whether that outlives the machine it lies on.
    """

    name: str
    address: str
    run: str
    durable: bool
    parcel: Parcel
    secrets: tuple[str, ...]
    before: Job | None


def submit(settings: StudySettings) -> Submitted:
    """Submit `raybd run` of a study as a job of the cluster; where an earlier job ended, the new one goes on.

    Raises:
        BadInput: if a job of the study runs, something of the study cannot travel, or the cluster refuses.
        Outage: if no job server answers.
    """
    parcel = pack(settings)
    with _server(settings) as client:
        jobs = client.list_jobs()
        latest = _latest(jobs, settings.name)
        before = None if latest is None else _job(latest)
        if before is not None and not before.over:
            raise BadInput(
                f"{before.name} is {before.state}: a study has one job at a time; "
                f"see `raybd status {settings.given}`, or end it with `raybd stop {settings.given}`"
            )
        name = _unused(settings.name, jobs)
        runs = _runs(settings, name)
        with tempfile.TemporaryDirectory() as folder:
            parcel.unpack(Path(folder))
            client.submit_job(
                # Without `exec` a shell would stand between the job and the signal that stops it.
                entrypoint=f"exec raybd run {shlex.quote(parcel.study)} --runs {shlex.quote(runs)}",
                submission_id=name,
                metadata={"raybd": settings.name, "raybd_version": __version__},
                runtime_env={
                    "working_dir": folder,
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), SUBMITTED: settings.given},
                },
            )
    return Submitted(
        name=name,
        address=_address(settings),
        run=f"{runs}/{settings.name}",
        durable=settings.cluster.storage is not None,
        parcel=parcel,
        secrets=tuple(_secrets(settings)),
        before=before,
    )


def _runs(settings: StudySettings, name: str) -> str:
    """Where a job's run folder lies.

    Ray keeps a working directory and gives it, as an earlier job left it, to the next that brings the same files. Where
    the copy on S3 is what goes on, each job therefore has a folder of its own.
    """
    if settings.cluster.storage is None:
        return "runs"
    return str(settings.cluster.folder or f"runs/{name}")


def status(settings: StudySettings) -> Job:
    """Return how the study's latest job is.

    Raises:
        BadInput: if there is none, or the cluster refuses.
        Outage: if no job server answers.
    """
    with _server(settings) as client:
        found = _known(client, settings)
        return _job(found, _log(client, found.submission_id))


def stop(settings: StudySettings) -> Job:
    """End the study's job in order and return how it then is; one that has ended is left as it is.

    One that is not over `STOP_PATIENCE` seconds later is returned as it is: something of it may still run.

    Raises:
        BadInput: if there is none, or the cluster refuses.
        Outage: if no job server answers.
    """
    with _server(settings) as client:
        found = _known(client, settings)
        if not _job(found).over:
            client.stop_job(found.submission_id)
            deadline = time.monotonic() + STOP_PATIENCE
            while not _job(found).over and time.monotonic() < deadline:
                time.sleep(0.5)
                found = client.get_job_info(found.submission_id)
        return _job(found, _log(client, found.submission_id))


def follow(settings: StudySettings, say: Callable[[str], None]) -> Job:
    """Hand the log of the study's latest job to `say`, piece by piece, until the job ends; return how it ended.

    Raises:
        BadInput: if there is none, or the cluster refuses.
        Outage: if no job server answers any more; the job goes on.
    """
    with _server(settings) as client:
        found = _known(client, settings)
        told = 0
        while True:
            told = asyncio.run(_tell(client, found.submission_id, say, told))
            found = client.get_job_info(found.submission_id)
            if _job(found).over:
                return _job(found)
            time.sleep(1)


async def _tell(client: Any, name: str, say: Callable[[str], None], told: int) -> int:
    """Say what comes of a log after its first `told` characters; return how many were told when it broke off."""
    import aiohttp

    passed = 0
    with suppress(RuntimeError, aiohttp.ClientError):  # what broke the stream shows when the job is asked for
        async for piece in client.tail_job_logs(name):
            passed += len(piece)
            if passed > told:
                say(piece[-(passed - told) :])
                told = passed
    return told


def _known(client: Any, settings: StudySettings) -> Any:
    found = _latest(client.list_jobs(), settings.name)
    if found is None:
        raise BadInput(
            f"{_address(settings)} knows no job of the study '{settings.name}'; "
            f"`raybd submit {settings.given}` begins one"
        )
    return found


def _latest(jobs: list[Any], study: str) -> Any:
    """The job of a study that began last, whoever submitted it."""
    own = [job for job in jobs if job.submission_id and _is_of(job, study)]
    return max(own, key=lambda job: job.start_time or 0, default=None)


def _is_of(job: Any, study: str) -> bool:
    """Whether a job says that it is the study's; one that says nothing is whose plain name it bears.

    The name alone proves nothing: the second job of `a` is called as the first of `a-2` would be.
    """
    said = job.metadata or {}
    return bool(said["raybd"] == study if "raybd" in said else job.submission_id == f"raybd-{study}")


def _unused(study: str, jobs: list[Any]) -> str:
    """A name for the next job: Ray never takes one twice."""
    used = {job.submission_id for job in jobs}
    names = (f"raybd-{study}" + (f"-{n}" if n > 1 else "") for n in range(1, len(used) + 2))
    return next(name for name in names if name not in used)


def _job(found: Any, log: str = "") -> Job:
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    progress = [match[0] for line in lines if (match := _PROGRESS.search(line))]
    state = _state(str(found.status), found.driver_exit_code)
    return Job(
        name=found.submission_id,
        state=state,
        exit_code=found.driver_exit_code,
        started=found.start_time and found.start_time / 1000,
        ended=found.end_time and found.end_time / 1000,
        # Of a job whose program ran, the message repeats its log.
        message=_short(found.message) if state == "failed" and found.driver_exit_code is None else "",
        progress=progress[-1] if progress else "",
        log=tuple(lines[-LAST_LINES:]),
    )


def _state(status: str, code: int | None) -> State:
    """What became of a job, by Ray's word and its program's: to Ray all but exit code 0 is failure."""
    words: dict[str, State] = {"PENDING": "waiting", "RUNNING": "running", "STOPPED": "stopped", "SUCCEEDED": "done"}
    codes: dict[int | None, State] = {NOTHING_FEASIBLE: "nothing feasible", REFUSED: "refused", INTERRUPTED: "stopped"}
    return words.get(status) or codes.get(code, "failed")


def _log(client: Any, name: str) -> str:
    """A job's log; one that went with its machine is told to be gone."""
    try:
        return str(client.get_job_logs(name))
    except RuntimeError as error:
        return f"(the log cannot be read: {_first_line(error)})"


def _secrets(settings: StudySettings) -> Iterator[str]:
    """The variables that the study's services want, which the cluster's own environment has to hold."""
    uri = settings.tracking.uri or ""
    if settings.cluster.optuna is not None or uri.startswith("postgresql"):
        yield "PGPASSWORD"
    if (settings.cluster.storage or "").startswith("s3://"):
        yield from ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if uri.startswith("http"):
        yield from ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def _address(settings: StudySettings) -> str:
    address = settings.cluster.address or os.environ.get(_SERVER)
    if not address:
        raise BadInput(
            f"cluster.address: missing; expected the address of Ray's job server, as a rule http://HEAD:8265, "
            f"here or in {_SERVER}"
        )
    try:
        return job_server(address)
    except BadInput as error:
        raise BadInput(f"cluster.address: {str(error).removeprefix('cluster.address: ')}") from None


@contextmanager
def _server(settings: StudySettings) -> Iterator[Any]:
    """Give a client of the job server; what goes wrong with it inside is one line: an Outage, or BadInput."""
    address = _address(settings)
    if importlib.util.find_spec("aiohttp") is None:
        raise BadInput("submit, status and stop need Ray's job client: pip install 'raybd[cluster]'")
    _check_token()
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    before = os.environ.get(_SERVER)
    os.environ[_SERVER] = address  # a RAY_ADDRESS would count for more than the argument
    try:
        with _quiet():
            yield JobSubmissionClient(address)
    except AuthenticationError as error:
        raise BadInput(
            f"cluster.address: {address} refuses this token, or wants one ({_first_line(error)}); expected "
            "RAY_AUTH_MODE=token and the cluster's own RAY_AUTH_TOKEN in the environment"
        ) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise Outage(
            f"cluster.address: no job server answers at {address} ({_first_line(error)}); does its head run, and with "
            "ray[default]? Without that Ray opens no such port"
        ) from error
    except RuntimeError as error:
        if _UNWELL.search(str(error)):
            raise Outage(f"cluster.address: {address} cannot do it now ({_first_line(error)})") from error
        raise BadInput(f"cluster.address: {address} refused ({_first_line(error)})") from error
    finally:
        if before is None:
            del os.environ[_SERVER]
        else:
            os.environ[_SERVER] = before


def _check_token() -> None:
    """Refuse to ask with a token that is nowhere; looks where Ray looks, of which the first that is set counts."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if not is_file(path) or not path.stat().st_size:
        where = f"RAY_AUTH_TOKEN_PATH names no file that holds one ({named})" if named else f"{path} holds none"
        raise BadInput(f"RAY_AUTH_MODE=token is set, but no RAY_AUTH_TOKEN, and {where}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from telling, above what we print, of the package it makes; its warnings pass."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return _short(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))


def _short(text: str | None) -> str:
    """Text on one line of bearable length."""
    line = " ".join((text or "").split())
    return line if len(line) <= 300 else f"{line[:299]}…"
