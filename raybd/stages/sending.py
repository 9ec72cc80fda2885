"""A copy is kept up beside a block: one thread sends, another says that we live, and the end of the block waits."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from raybd.registry import Outage
from raybd.stages import lease
from raybd.stages.mirror import Mirror

PATIENCE_SECONDS = 300.0
"""So long S3 may fail to take the rest at the end before the stage is called unsaved."""
BRIEFLY_SECONDS = 15.0
"""So long the end takes at most where the block was interrupted: whoever did that kills us a little later."""

_log = logging.getLogger(__name__)


class _Sender:
    """The thread that sends, during the block and after it."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._ending, self._given_up = threading.Event(), threading.Event()
        self._patience = 0.0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def end(self, patience: float, *, at_most: float | None = None) -> None:
        """Have the rest sent; wait for that, but no longer than `at_most` seconds.

        Raises:
            Taken, BadInput: if another machine has taken the copy over, or S3 refuses the rest.
            Outage: if S3 does not take it in time.
        """
        self._patience = patience
        self._ending.set()
        try:
            self._thread.join(at_most)
        finally:
            self._given_up.set()
        if self._thread.is_alive():
            raise Outage(self._mirror.unsaved(f"it takes longer than {at_most:.0f} s"))
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        said: set[str] = set()
        while not self._ending.is_set():
            try:
                self._mirror.send(ended=False, stop=self._ending.is_set)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next time it may go
                if str(error) not in said:
                    _log.warning("%s", error)
                said.add(str(error))
            self._ending.wait(lease.EVERY_SECONDS)
        try:
            self._mirror.settle(self._patience, self._given_up.is_set)
        except Exception as error:  # noqa: BLE001 - raised by whoever waits for us
            self._failure = error


@contextlib.contextmanager
def sending(mirror: Mirror) -> Iterator[None]:
    """Keep a copy that is ours up for as long as the block lasts, whatever ends it.

    While the block runs S3 may be down: what could not be sent is sent later. A fault that ends the block is never
    hidden. A result is: a scheduler takes "nothing feasible" and "the gate refused" for the end of the work, and would
    take the machine away with the only folder that holds it.

    Raises:
        Taken: after the block, if another machine has taken the copy over.
        BadInput: after the block, if S3 refuses the rest.
        Outage: after the block, if S3 does not take the rest.
    """
    from raybd.artifacts import GateRefused, NothingFeasible  # only here: it imports torch

    with mirror.beating():
        sender = _Sender(mirror)
        try:
            yield
        except (GateRefused, NothingFeasible) as result:
            _saved(sender, result)
            raise
        except BaseException as error:
            at_most = None if isinstance(error, Exception) else BRIEFLY_SECONDS
            try:
                sender.end(at_most or PATIENCE_SECONDS, at_most=at_most)
            except Exception as second:  # noqa: BLE001 - the first comes first
                _log.warning("%s", second)
            raise
        sender.end(PATIENCE_SECONDS)


def _saved(sender: _Sender, result: Exception) -> None:
    try:
        sender.end(PATIENCE_SECONDS)
    except Exception:
        _log.warning("%s", result)  # else it would be seen nowhere
        raise
