"""A pool of Ray actors: some start, some wait for a call, some have one; what is lost or hangs is replaced."""

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from raybd.registry import Outage
from raybd.search.tuner.machines import MACHINE_SECONDS

STARTS = 5
"""An actor that is lost before it has started is started so often in all."""
PAUSE_S = 1.0
"""Seconds before the second start, twice so many before the third, and so on: a dead machine is soon known as dead."""
ANSWER_S = 30.0
"""Seconds in which an actor must say how long its work has been silent; one that cannot even do that hangs."""
LOOK_S = 10.0
"""Seconds between two looks at what becomes of a wait."""
WARN_S = 180.0
"""Seconds without any actor that has started, after which the log says so, again and again."""
LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError)
"""What Ray says when a worker went away with its call: killed, out of memory, or with its whole machine."""

_log = logging.getLogger(__name__)


class Pool:
    """Actors with a method `silent`, which says for how many seconds their work has shown nothing.

    Args:
        make: makes an actor.
        patience: seconds for which a call may show nothing before its actor is taken as hung; for ever by default.
        room: says how many actors the machines hold that are alive. Where it is none for `MACHINE_SECONDS` and nothing
            runs, the wait is over; without it one waits on, as an autoscaler may bring machines.
    """

    def __init__(
        self, make: Callable[[], Any], *, patience: float | None = None, room: Callable[[], int] | None = None
    ) -> None:
        self._make = make
        self._patience = patience
        self._room = room
        self._starting: dict[Any, tuple[Any, int]] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[int, Any]] = {}

    @property
    def idle(self) -> bool:
        """Whether an actor waits for a call."""
        return bool(self._idle)

    def start(self) -> None:
        """Start one more actor."""
        self._ask(self._make(), 1)

    def hand(self, i: int, method: str, arguments: tuple[Any, ...]) -> None:
        """Hand call `i` to an idle actor."""
        actor = self._idle.pop()
        self._busy[getattr(actor, method).remote(*arguments)] = (i, actor)

    def next(self) -> tuple[int, Any, RayError | None] | None:
        """Wait until a call ends, and return its number, its result and how its actor was lost; None if one started.

        Raises:
            Outage: if no machine could hold an actor for too long.
            RuntimeError: if none of the actors can be started; errors in calls are raised as Ray gives them.
        """
        ready = self._first()
        if ready in self._starting:
            self._started(ready)
            return None
        i, actor = self._busy.pop(ready)
        try:
            result = ray.get(ready)
        except LOST as error:
            ray.kill(actor)  # one that the network alone has lost would work on, and keep its place
            self._replace()
            return i, None, error
        except BaseException:
            self._idle.append(actor)
            raise
        self._idle.append(actor)
        return i, result, None

    def close(self) -> None:
        """End all actors."""
        for actor in (*self._idle, *(actor for actor, _ in self._starting.values()), *self._at_work()):
            ray.kill(actor)

    def _at_work(self) -> list[Any]:
        return [actor for _, actor in self._busy.values()]

    def _ask(self, actor: Any, start: int) -> None:
        """Let an actor say that it is there: it starts for the first, second, ... time in a row, or (0) has before."""
        self._starting[actor.silent.remote()] = (actor, start)

    def _replace(self) -> None:
        """Start an actor for one that was lost; the idle ones, whose machine may be the same, have to answer anew."""
        self.start()
        while self._idle:
            self._ask(self._idle.pop(), 0)

    def _started(self, ready: Any) -> None:
        """Take an actor as idle, or start another where it was lost before it had a call."""
        actor, start = self._starting.pop(ready)
        try:
            ray.get(ready)
        except LOST as error:
            if start < STARTS:
                time.sleep(PAUSE_S * start)
                self._ask(self._make(), start + 1)
            elif not (self._starting or self._idle or self._busy):
                raise RuntimeError(f"no worker can be started: {reason(error)}") from error
        else:
            self._idle.append(actor)

    def _first(self) -> Any:
        """The first call to end, or actor to start; actors whose calls hang are killed, which ends these."""
        wait = Wait(self._room)
        looked = time.monotonic()
        while True:
            timeout = LOOK_S if self._patience is None else min(LOOK_S, self._patience)
            ended, _ = ray.wait([*self._busy, *self._starting], num_returns=1, timeout=timeout)
            if ended:
                return ended[0]
            if not self._busy:
                wait.go_on()
            elif self._patience is not None and time.monotonic() - looked >= self._patience:
                self._end_hung(self._patience)
                looked = time.monotonic()

    def _end_hung(self, patience: float) -> None:
        for actor in self._at_work():
            try:
                silent = ray.get(actor.silent.remote(), timeout=min(patience, ANSWER_S))
            except (GetTimeoutError, *LOST):
                silent = patience
            if silent >= patience:
                ray.kill(actor)


class Wait:
    """A wait for the first actor to start, while nothing runs.

    Args:
        room: says how many actors the machines hold that are alive; None where an autoscaler may bring some.
    """

    def __init__(self, room: Callable[[], int] | None) -> None:
        self._room = room
        self._begun = self._warned = self._fitted = time.monotonic()

    def go_on(self) -> None:
        """Warn now and then; raise Outage once no machine could hold an actor for `MACHINE_SECONDS`."""
        now = time.monotonic()
        if self._room is None or self._room() > 0:
            self._fitted = now
        elif now - self._fitted >= MACHINE_SECONDS:
            raise Outage(f"for {MACHINE_SECONDS / 60:g} minutes no machine of the Ray cluster could hold a worker")
        if now - self._warned >= WARN_S:
            self._warned = now
            _log.warning("for %.0f minutes no worker has started on the Ray cluster", (now - self._begun) / 60)


def reason(error: RayError) -> str:
    """Return the first line of what Ray says."""
    return next(iter(str(error).splitlines()), "no reason given")
