"""The Tracker: what a study writes to MLflow as it goes, sent at once or kept in the outbox; and `sync`."""

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raybd.registry import BadInput, as_json, read_json, write_json
from raybd.tracking import registry
from raybd.tracking.client import Unreachable, explain, resolve_uri
from raybd.tracking.delivery import Delivery
from raybd.tracking.outbox import Delivered, Outbox
from raybd.tracking.records import (
    Figure,
    Record,
    as_params,
    as_tags,
    figures,
    now,
    row_record,
    sequela_figures,
    split_artifacts,
    trial_record,
)

_AT_ONCE = 20  # waiting records sent on the way, so that a server that came back does not hold up the search
_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0  # seconds before MLflow is tried again


class Tracker:
    """Writes one run folder's study to MLflow: a parent run, a child run per trial, models for the front.

    Nothing here raises because MLflow is down: records then wait in `run_dir/outbox.jsonl`, MLflow is tried again
    after a pause and at `finish`, and `sync` delivers the rest. Every record has a key, so that giving a resumed
    study's trials again costs nothing and writes nothing twice.

    Args:
        uri: `http://HOST:PORT`, `sqlite:///FILE`, or None for SQLite in the run folder.
        run_dir: the study's run folder; its identity is kept in `tracking.json` there.
        study: the study's name; the experiment is `raybd/<study>`.

    Raises:
        BadInput: if `uri` is none that MLflow can use.
    """

    def __init__(self, uri: str | None, run_dir: Path, study: str) -> None:
        self.uri = resolve_uri(uri, run_dir)
        self._error: Exception | None = None
        self._given_uri, self._run_dir, self._study = uri, run_dir, study
        self._outbox = Outbox(run_dir)
        self._delivery: Delivery | None = None
        self._run_key = ""
        self._pause, self._try_again = _FIRST_PAUSE, 0.0

    @property
    def waiting(self) -> int:
        """How many records wait in the outbox; `reason` says why."""
        return len(self._outbox.keys)

    @property
    def reason(self) -> str:
        """Why the last delivery failed; empty when it did not."""
        return explain(self._error) if self._error else ""

    def start(self, *, params: Mapping[str, Any], tags: Mapping[str, Any], artifacts: Mapping[str, str | Path]) -> None:
        """Open the run folder's own run, or take it up again; artifacts are texts or paths, by name.

        Raises:
            BadInput: if MLflow answers that the study cannot be written there.
        """
        self._parent("start", "RUNNING", params=params, tags=tags, artifacts=artifacts)
        if isinstance(self._error, BadInput):
            raise self._error  # a mistake in the study, known before the search begins

    def trial(self, record: Mapping[str, Any]) -> None:
        """Write one trial of the search, as `search/card.json` holds it."""
        self._send(trial_record(self._key(), record))

    def reference(self, name: str, row: Mapping[str, Any]) -> None:
        """Write one row of the assessment, as `assess/card.json` holds it: a reference, the suspect, the selected."""
        self._send(row_record(self._key(), name, row, json.dumps(as_json(row), indent=2)))

    def sequela(self, sequela: Mapping[str, Any]) -> None:
        """Write the sequela, as `assess/card.json` holds them, into the study's own run."""
        texts = {"sequela.json": json.dumps(as_json(sequela), indent=2)}
        self._parent("sequela", "RUNNING", points=sequela_figures(sequela), artifacts=texts)

    def finish(
        self,
        metrics: Mapping[str, Any],
        tags: Mapping[str, Any],
        artifacts: Mapping[str, str | Path],
    ) -> Delivered:
        """Close the study's own run and try to deliver all that waits."""
        self._try_again = 0.0
        points = tuple(figures(metrics))
        return self._parent("finish", "FINISHED", points=points, tags=tags, artifacts=artifacts, at_once=None)

    def model(
        self, number: int | str, *, model: object, weights: Path, card: dict[str, Any], example: np.ndarray
    ) -> str | None:
        """Log a model of the front (`number` is its trial's) or another by name, and return its `models:/m-...`.

        Args:
            number: the trial's number, or a name such as `candidate`.
            model: an `nn.Module` that takes float images in [0, 1]; it is copied to the CPU in evaluation mode.
            weights: the same model's safetensors file; the model's identity in MLflow is this file's content.
            card: what is known of it, stored as `card.json`.
            example: two images, float32 (2, c, h, w).

        Returns:
            The model's address, or None while it waits in the outbox.

        Raises:
            BadInput: if the model cannot be traced.
        """
        name = number if isinstance(number, str) else f"trial-{number}"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        record = self._model_record(name, digest)
        address = self._address(record.key)
        if address is None:
            folder = self._run_dir / str(record.folder)
            if not folder.is_dir():
                from raybd.tracking.export import export_model

                export_model(model, folder, weights=weights, card=card, example=example)
            self._send(record)
            address = self._address(record.key)
        return address

    def promote(self, *, name: str, alias: str, model_uri: str | None, tags: Mapping[str, Any]) -> registry.Version:
        """Register the model, set its tags, then move the alias; see `registry.promote`.

        Raises:
            Unreachable: if MLflow does not answer, or the model still waits in the outbox: the alias did not move.
            BadInput: for a name or alias that MLflow reserves.
        """
        registry.check_names(name, alias)
        if model_uri is None:
            raise Unreachable(
                f"tracking.uri: the model has not reached MLflow at {self.uri}, so nothing was promoted; "
                f"repeat it when the server is back ({self.reason or 'it waits in the outbox'})"
            )
        given = {"raybd.run": self._key(), "raybd.study": self._study, **tags}
        return registry.promote(self.uri, name=name, alias=alias, model_uri=model_uri, tags=as_tags(given))

    def rollback(self, *, name: str, alias: str) -> registry.Version:
        """Give the alias back to its previous holder; see `registry.rollback`."""
        return registry.rollback(self.uri, name=name, alias=alias)

    def flush(self, limit: int | None = None) -> Delivered:
        """Deliver what waits, oldest first, at most `limit` records; each exactly once, also over crashes."""
        self._error, sent, done = None, [], set()
        try:
            for record in self._outbox.records()[:limit]:
                outcome = self._attempt(record)
                if outcome is not None:
                    sent.append(outcome)
                    done.add(record.key)
                elif not self._delivery_now().answers():
                    break
        finally:
            self._outbox.drop(done)
        if self._error is None:
            self._pause, self._try_again = _FIRST_PAUSE, 0.0
        left, unreadable = len(self._outbox.records()), self._outbox.unreadable()
        lines = f"{unreadable} lines of {self._outbox.path.name} cannot be read" if unreadable else ""
        reason = self.reason or lines
        return Delivered(sent=sum(sent), already_there=len(sent) - sum(sent), left=left + unreadable, reason=reason)

    def _send(self, record: Record, at_once: int | None = _AT_ONCE) -> Delivered:
        if not self._outbox.keys and not self._resting():
            outcome = self._attempt(record)
            if outcome is not None:
                return Delivered(sent=int(outcome), already_there=int(not outcome), left=0)
        self._outbox.append(record)
        if not self._resting():
            return self.flush(at_once)
        return Delivered(sent=0, already_there=0, left=self.waiting, reason=self.reason)

    def _attempt(self, record: Record) -> bool | None:
        """Deliver one record: True if it was sent, False if it was there, None if MLflow could not take it."""
        try:
            with self._outbox.locked():
                sent = self._delivery_now().deliver(record)
                self._note_parent()
        except Exception as error:  # noqa: BLE001 - nothing that tracking raises may end a search
            self._failed(error)
            return None
        if record.folder:
            shutil.rmtree(self._run_dir / record.folder, ignore_errors=True)
        self._error = None
        return sent

    def _address(self, key: str) -> str | None:
        if self._resting():
            return None
        try:
            with self._outbox.locked():
                return self._delivery_now().model_uri(key)
        except Exception as error:  # noqa: BLE001 - as in _attempt
            self._failed(error)
            return None

    def _resting(self) -> bool:
        return time.monotonic() < self._try_again

    def _failed(self, error: Exception) -> None:
        self._error = error
        self._try_again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _parent(
        self,
        what: str,
        status: str,
        *,
        params: Mapping[str, Any] | None = None,
        points: tuple[Figure, ...] = (),
        tags: Mapping[str, Any] | None = None,
        artifacts: Mapping[str, str | Path] | None = None,
        at_once: int | None = _AT_ONCE,
    ) -> Delivered:
        texts, files = split_artifacts(artifacts or {})
        time_now = now()
        record = Record(
            key=f"{self._key()}:{what}:{uuid.uuid4().hex[:12]}",  # said anew each time it is said
            kind="parent",
            name=what,
            status=status,
            started=time_now,
            ended=time_now,
            params=as_params(params or {}),
            tags=as_tags(tags or {}),
            metrics=points,
            texts=texts,
            files=files,
        )
        return self._send(record, at_once)

    def _model_record(self, name: str, digest: str) -> Record:
        time_now = now()
        return Record(
            key=f"{self._key()}:model:{name}:{digest[:16]}",
            kind="model",
            name=name,
            started=time_now,
            ended=time_now,
            tags={"raybd.weights_file_sha256": digest, "raybd.run": self._key()},
            folder=f"mlmodels/{name}-{digest[:16]}",
        )

    def _key(self) -> str:
        """The run folder's identity in MLflow, made once and kept."""
        if not self._run_key:
            with self._outbox.locked():
                held = read_json(self._state_path) if self._state_path.exists() else {"run_key": uuid.uuid4().hex}
                self._run_key = str(held["run_key"])
                state = {**held, "study": self._study, "uri": self._given_uri}
                if state != held:
                    write_json(self._state_path, {**state, "parent_run_id": None})
        return self._run_key

    def _note_parent(self) -> None:
        state = read_json(self._state_path)
        parent = self._delivery_now().parent_id()
        if state["parent_run_id"] != parent:
            write_json(self._state_path, {**state, "parent_run_id": parent})

    @property
    def _state_path(self) -> Path:
        return self._run_dir / "tracking.json"

    def _delivery_now(self) -> Delivery:
        if self._delivery is None:
            self._delivery = Delivery(
                uri=self.uri, run_dir=self._run_dir, study=self._study, run_key=self._key()
            )
        return self._delivery


def sync(run_dir: Path) -> Delivered:
    """Deliver what waits in the run folder to the MLflow that its study last named.

    Raises:
        BadInput: if nothing was ever tracked in this folder.
    """
    path = run_dir / "tracking.json"
    if not path.exists():
        raise BadInput(f"{run_dir}: nothing to sync, no study has been tracked in this folder (no tracking.json)")
    state = read_json(path)
    return Tracker(state["uri"], run_dir, state["study"]).flush()
