"""Jobs and calls on Ray actors: results in order, and what a lost worker held is tried again."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from raybd.search.records import Job, Outcome
from raybd.search.trial import attempt, drain
from raybd.search.tuner.courier import Courier, Desk
from raybd.search.tuner.pool import Pool, reason
from raybd.search.view import SearchView
from raybd.training import Epoch

A = TypeVar("A")
B = TypeVar("B")

ATTEMPTS = 3
"""A call whose worker is lost is tried so often in all."""


class JobActor:
    """A worker for jobs and calls; it unpacks a view once."""

    def __init__(self, courier: Courier | None = None) -> None:
        self._view: SearchView | None = None
        self._desk = Desk(courier)
        self._last = time.monotonic()

    def run_job(self, packed: Mapping[str, Any], job: Job) -> Outcome:
        """Run one job on a copy of the suspect."""
        self._alive()
        if self._view is None:
            self._view = SearchView.unpack(packed)
        draft = job.weights and self._desk.draft(job.weights)
        outcome = drain(attempt(self._view, job.defense, seed=job.seed, weights=draft), self._alive)
        if job.weights is not None:
            self._desk.send(job.weights)
        return outcome

    def call(self, function: Callable[[A], B], item: A) -> B:
        """Call a function on an item; it shows nothing until it ends."""
        return function(item)

    def silent(self) -> float:
        """Return for how many seconds the work has shown nothing; asked for beside it, in a thread of its own."""
        return time.monotonic() - self._last

    def _alive(self, _epoch: Epoch | None = None) -> None:
        self._last = time.monotonic()


def spread(
    method: str,
    calls: Sequence[tuple[Any, ...]],
    *,
    actors: int,
    options: Mapping[str, Any],
    courier: Courier | None = None,
    patience: float | None = None,
    room: Callable[[], int] | None = None,
    tell: Callable[[int, Any], None] | None = None,
    lost: Callable[[str], Any] | None = None,
) -> list[Any]:
    """Call `method` of `JobActor` with each of `calls` and return the results in their order.

    A call is handed to an actor that has started: on a cluster that others use too, one may wait long for its place.

    Args:
        method: its name.
        calls: the arguments of each call.
        actors: so many at once.
        options: of each actor: what it holds, and where it goes.
        courier: brings weights to the driver from other machines.
        patience: seconds for which a call may show nothing before its actor is taken as hung; for ever by default.
            Only for a method that shows now and then that it is alive.
        room: says how many actors the machines hold that are alive; without it one waits for machines for ever.
        tell: called with index and result as each comes.
        lost: what to return, given the reason, for a call that lost its worker too often; an error by default.

    Raises:
        Outage: if there is no `room` for one actor for `MACHINE_SECONDS`.
        RuntimeError: if no actor can be started, or a call lost its worker too often and `lost` is None; errors in
            calls are raised as they are.
    """
    plain: Any = ray.remote(**options)(JobActor)
    kind = plain.options(max_concurrency=2)  # the second is for `silent`
    pool = Pool(lambda: kind.remote(courier), patience=patience, room=room)
    waiting = list(reversed(range(len(calls))))
    attempts = [0] * len(calls)
    results: dict[int, Any] = {}
    try:
        for _ in range(min(actors, len(calls))):
            pool.start()
        while len(results) < len(calls):
            while waiting and pool.idle:
                i = waiting.pop()
                pool.hand(i, method, calls[i])
            if (ended := pool.next()) is None:
                continue
            i, result, gone = ended
            attempts[i] += 1
            if gone is not None and attempts[i] < ATTEMPTS:
                waiting.append(i)
                continue
            results[i] = result if gone is None else _given_up(gone, attempts[i], lost)
            if tell is not None:
                tell(i, results[i])
    except RayTaskError as error:
        raise error.cause from None
    finally:
        pool.close()
    return [results[i] for i in range(len(calls))]


def _given_up(error: RayError, attempts: int, lost: Callable[[str], Any] | None) -> Any:
    text = f"its worker was lost {attempts} times ({reason(error)})"
    if lost is None:
        raise RuntimeError(text) from error
    return lost(text)
