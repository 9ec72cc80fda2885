"""What the commands print of a study's job on a cluster."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from raybd.cli.console import err, out
from raybd.cli.guard import FAULT, INTERRUPTED

MOST_NAMED = 8


def submitted(done: Any, study: str) -> None:
    """Print a job just submitted: what it is called, what travelled, and what the cluster has to have itself."""
    files = sorted(done.parcel.files)
    more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
    facts = {"job": done.name, "cluster": done.address, "run": done.run}
    facts["travels"] = ", ".join(files[:MOST_NAMED]) + more
    if done.parcel.elsewhere:
        facts["is there"] = f"{', '.join(done.parcel.elsewhere)}: at this path on every machine of the cluster"
    if done.secrets:
        facts["secrets"] = f"{', '.join(done.secrets)}: from the cluster's own environment; none is sent from here"
    if done.before is not None:
        facts["earlier job"] = f"{done.before.name}, {done.before.state}"
    _facts(facts)
    if not done.durable:
        _line(
            "warning: cluster.storage is null, so the run folder lies in the job's working directory on the head: it "
            "is lost with the head, and a changed study begins anew"
        )
    _line(f"see it with: raybd status {study}; end it with: raybd stop {study}")


def job(found: Any) -> None:
    """Print how a job is, and the end of its log."""
    code = "" if found.exit_code is None else f" (exit code {found.exit_code})"
    facts = {"job": found.name, "state": f"{found.state}{code}"}
    facts |= {key: _moment(at) for key, at in (("started", found.started), ("ended", found.ended)) if at}
    if found.progress:
        facts["search"] = found.progress
    if found.message:
        facts["reason"] = found.message
    _facts(facts)
    for line in found.log:
        _line(f"  | {line}")


def stopped(found: Any, study: str) -> int:
    """Print how a job is that was to end, and return the exit code: a fault where it has not."""
    job(found)
    if found.over:
        return 0
    told = f"{found.name} was told to end and is still {found.state}; see it with: raybd status {study}"
    err.print(told, markup=False, highlight=False, soft_wrap=True)
    return FAULT


def followed(follow: Callable[[Callable[[str], None]], Any], study: str) -> int:
    """Print a job's log until it ends, and return raybd's exit code: the job's own where it has one."""
    try:
        found = follow(_log)
    except KeyboardInterrupt:
        err.print(f"The job goes on; see it with: raybd status {study}", markup=False, highlight=False, soft_wrap=True)
        return INTERRUPTED
    _line(f"{found.name}: {found.state}")
    if found.message:
        _line(found.message)
    if found.exit_code is not None:
        return int(found.exit_code)
    return {"done": 0, "stopped": INTERRUPTED}.get(found.state, FAULT)


def _log(text: str) -> None:
    out.print(text, end="", markup=False, highlight=False, soft_wrap=True)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


def _facts(facts: Mapping[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        _line(f"{name:<{width}}  {value}")


def _line(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
