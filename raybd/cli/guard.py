"""What a user sees of an error: one readable message and an exit code; a traceback only with --debug."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperCommand

from raybd.cli.console import err
from raybd.files import disk_fault
from raybd.registry import BadInput, Outage

# Click's context, whose class typer keeps to itself, is Any here.
MESSAGE = 4000
"""So many characters of a message are shown."""
FAULT, BAD_INPUT, NOTHING_FEASIBLE, REFUSED, INTERRUPTED = 1, 2, 3, 4, 130


class Guarded(TyperCommand):
    """A command that turns every exception into a message on stderr and the exit code of its kind."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raises typer.Exit in place of any other exception."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.find_root().params["debug"]:
                err.print_exception()
            err.print(_printable(_message(error, ctx)), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(_exit_code(error)) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM, by which a job server, Kubernetes, Slurm or Docker ends a process, as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal's handler takes both
    """Do what Ctrl-C would do now: Tune, for one, has its own way with it.

    SIGINT itself is not sent, because Ray blocks it in all that its job server starts.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    if not callable(on_interrupt):
        raise KeyboardInterrupt
    on_interrupt(signal.SIGINT, frame)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, BadInput):
        return BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    from raybd.artifacts import GateRefused, NothingFeasible  # only here: it imports torch

    codes = {NothingFeasible: NOTHING_FEASIBLE, GateRefused: REFUSED}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), FAULT)


def _message(error: BaseException, ctx: Any) -> str:
    code = _exit_code(error)
    if code == INTERRUPTED:
        return _interrupted(ctx)
    if code != FAULT:
        return str(error)
    if isinstance(error, Outage):
        return f"{error}\nWhat was finished is kept. When it answers again, {_again(ctx)}"
    full = disk_fault(error)
    if full is not None:
        where = f": {full.filename}" if full.filename else ""
        return f"{full.strerror}{where}\nWhat was finished is kept. When the disk can be written again, {_again(ctx)}"
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"{said}\nThis is a fault of raybd or of this machine. To see where: raybd --debug {ctx.info_name} ..."


def _printable(text: str) -> str:
    """`text` without what would steer a terminal, because it may quote a file of others, and of a bearable length."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text[:MESSAGE])
    return shown if len(text) <= MESSAGE else f"{shown}... ({len(text) - MESSAGE:,} more characters)"


def _interrupted(ctx: Any) -> str:
    if ctx.params.get("study") is None:
        return "Interrupted."
    return f"Interrupted. What was finished is kept; {_again(ctx)}"


def _again(ctx: Any) -> str:
    """How to go on, in words; in a submitted job as its user does, whose study lies elsewhere than the job's."""
    if ctx.info_name == "run":
        from raybd.cluster import SUBMITTED  # only here: it imports torch

        submitted = os.environ.get(SUBMITTED)
        if submitted:
            return f"go on with: raybd submit {submitted}"
    study, runs = ctx.params.get("study"), ctx.params.get("runs")
    elsewhere = "" if runs is None else f" --runs {runs}"
    verb = f"search {study} --resume" if ctx.info_name == "search" else f"{ctx.info_name} {study}"
    return f"go on with: raybd {verb}{elsewhere}"
