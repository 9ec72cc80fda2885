"""Between what a study says and MLflow: sent at once while it answers, kept in the outbox while it does not."""

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybd.registry import BadInput, check_type, read_card, write_json
from raybd.tracking.client import artifact_root, check_let_in, explain, is_outage, resolve_uri
from raybd.tracking.delivery import Delivery, experiment_of
from raybd.tracking.moving import follow
from raybd.tracking.outbox import Delivered, Outbox
from raybd.tracking.records import Record, now

AT_ONCE = 20  # waiting records sent on the way, so that a server that came back does not hold up the search
_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0  # seconds before MLflow is tried again


class Sender:
    """Sends the records of one run folder; the first failed call makes the next ones wait, for ever longer.

    The folder's identity is kept in its `tracking.json`, made when the first record is.
    """

    def __init__(self, uri: str | None, run_dir: Path, study: str, base: Path | None = None) -> None:
        self.uri = resolve_uri(uri, run_dir, base)
        self.error: Exception | None = None
        # Resolved, so that `sync` finds it from anywhere; the run folder's own database moves with the folder.
        self._kept_uri = None if uri is None else self.uri
        self._run_dir, self._study = run_dir, study
        self._state_path = run_dir / "tracking.json"
        if self._state_path.exists():
            read_state(run_dir)  # damaged, it is found before the work, not after
        self._outbox = Outbox(run_dir)
        self._delivery: Delivery | None = None
        self._run_key = ""
        self._pause, self._try_again = _FIRST_PAUSE, 0.0

    @property
    def waiting(self) -> int:
        """How many records wait in the outbox."""
        return len(self._outbox.keys)

    @property
    def reason(self) -> str:
        """Why the last delivery failed; empty when it did not."""
        return explain(self.error) if self.error else ""

    @property
    def run_key(self) -> str:
        """The run folder's identity in MLflow, made once and kept."""
        if not self._run_key:
            with self._outbox.locked():
                new = {"run_key": uuid.uuid4().hex, "parent_run_id": None}
                held = _state(self._state_path) if self._state_path.exists() else new
                state = {**held, "study": self._study, "uri": self._kept_uri}
                if state != held:
                    write_json(self._state_path, state)
            self._run_key = str(held["run_key"])
        return self._run_key

    def tick(self) -> int:
        """Return the time in milliseconds since 1970, later than the last one also where the clock was set back.

        What the study's own run is told is ordered by its times, over all sessions.
        """
        key = self.run_key
        with self._outbox.locked():
            state = _state(self._state_path)
            latest: int = max(now(), state["latest"] + 1)
            write_json(self._state_path, {**state, "run_key": key, "latest": latest})
        return latest

    def check(self) -> None:
        """Find the folder's place in MLflow; that it does not answer is not an error here.

        Raises:
            BadInput: if it answers, or is known, to be no place for this study, or not for this user and password.
        """
        if self._resting():
            return
        try:
            with self._outbox.locked():
                self._connected().parent_id()
        except BadInput:
            raise
        except Exception as error:  # noqa: BLE001 - as in _attempt
            check_let_in(self.uri, error)
            self._failed(error)

    def send(self, record: Record, at_once: int | None = AT_ONCE) -> Delivered:
        """Deliver `record`, or keep it; where others wait before it, up to `at_once` of them go first."""
        if not self._outbox.keys and not self._resting():
            sent = self._attempt(record)
            if sent is not None:
                return Delivered(sent=int(sent), already_there=int(not sent), left=0)
        self._outbox.append(record)
        if not self._resting():
            return self.flush(at_once)
        return Delivered(sent=0, already_there=0, left=self.waiting, reason=self.reason)

    def send_together(self, records: Sequence[Record]) -> None:
        """Deliver child records, several at a time, or keep them; where others wait they go one by one behind them."""
        if self._outbox.keys or self._resting():
            for record in records:
                self.send(record)
            return
        try:
            with self._outbox.locked():
                errors = self._connected().deliver_together(records)
                self._note_parent()
        except Exception as error:  # noqa: BLE001 - as in _attempt
            errors = {record.key: error for record in records}
        for record in records:
            if record.key in errors:
                self._outbox.append(record)
        if errors:
            self._failed(next(iter(errors.values())))
        else:
            self.error = None

    def flush(self, limit: int | None = None) -> Delivered:
        """Deliver what waits, oldest first, at most `limit` records; each exactly once, also over crashes.

        The lock is held from reading the list to dropping what was delivered from it: a `sync` and a running
        search that both read the list first would each deliver all of it.
        """
        with self._outbox.locked():
            return self._flush(limit)

    def _flush(self, limit: int | None) -> Delivered:
        self.error, done, failed = None, {}, None
        try:
            for record in self._outbox.records()[:limit]:
                sent = self._attempt(record)
                if sent is None and self._outage():
                    if not self._connected().answers():
                        failed = self.error
                        break
                    sent = self._attempt(record)  # a hiccup; later records build on this one
                if sent is None:
                    failed = self.error  # a later record that can be sent must not hide it
                else:
                    done[record.key] = sent
        finally:
            self._outbox.drop(done)
            self.error = failed
        if failed is None:
            self._pause, self._try_again = _FIRST_PAUSE, 0.0
        return self._summary(sent=sum(done.values()), already_there=len(done) - sum(done.values()))

    def model_uri(self, key: str) -> str | None:
        """Return the address of the model that this record became; None if it has not, or MLflow is down."""
        if self._resting():
            return None
        try:
            with self._outbox.locked():
                return self._connected().model_uri(key)
        except Exception as error:  # noqa: BLE001 - as in _attempt
            self._failed(error)
            return None

    def try_now(self) -> None:
        """Let the next call try MLflow, however recently it failed."""
        self._try_again = 0.0

    def _summary(self, *, sent: int, already_there: int) -> Delivered:
        left, unreadable = len(self._outbox.records()), self._outbox.unreadable()
        lines = f"{unreadable} lines of {self._outbox.path.name} cannot be read" if unreadable else ""
        return Delivered(sent=sent, already_there=already_there, left=left + unreadable, reason=self.reason or lines)

    def _attempt(self, record: Record) -> bool | None:
        """Deliver one record: True if it was sent, False if it was there, None if MLflow did not take it."""
        try:
            with self._outbox.locked():
                sent = self._connected().deliver(record)
                self._note_parent()
        except Exception as error:  # noqa: BLE001 - nothing that tracking raises may end a search
            self._failed(error)
            return None
        if record.folder:
            self._discard(self._run_dir / record.folder)
        self.error = None
        return sent

    def _discard(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # delivered: MLflow has its own copy
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # the last one out

    def _outage(self) -> bool:
        return self.error is not None and is_outage(self.error)

    def _resting(self) -> bool:
        return time.monotonic() < self._try_again

    def _failed(self, error: Exception) -> None:
        self.error = error
        self._try_again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _note_parent(self) -> None:
        state, parent = _state(self._state_path), self._connected().parent_id()
        if state["parent_run_id"] != parent:
            write_json(self._state_path, {**state, "parent_run_id": parent})

    def _connected(self) -> Delivery:
        if self._delivery is None:
            key = self.run_key
            if self._kept_uri is None:
                root = artifact_root(self.uri, self._run_dir)
                follow(self._run_dir / "mlflow.db", experiment=experiment_of(self._study), root=str(root))
            self._delivery = Delivery(uri=self.uri, run_dir=self._run_dir, study=self._study, run_key=key)
        if self._outbox.others_wrote:
            self._delivery.forget()
            self._outbox.others_wrote = False
        return self._delivery


def read_state(run_dir: Path) -> dict[str, Any]:
    """Return what a run folder knows of its place in MLflow.

    Raises:
        BadInput: if nothing was ever tracked in this folder, or the file is damaged.
    """
    path = run_dir / "tracking.json"
    if not path.exists():
        raise BadInput(f"{run_dir}: nothing to sync, no study was tracked in this folder (no tracking.json)")
    return _state(path)


def _state(path: Path) -> dict[str, Any]:
    state = {"latest": 0, **read_card(path, run_key=str, parent_run_id=str | None, study=str, uri=str | None)}
    check_type(int, state["latest"], f"{path}: latest")
    if not re.fullmatch(r"[\w-]+", state["run_key"]):  # it goes into MLflow's queries
        raise BadInput(f"{path}: run_key is damaged: {state['run_key']!r:.80}")
    return state
