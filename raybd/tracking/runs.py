"""The Tracker: what a study writes to MLflow as it goes; and `sync`, which delivers what had to wait."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raybd.registry import BadInput, as_json
from raybd.tracking import registry
from raybd.tracking.client import Unreachable, check_let_in
from raybd.tracking.outbox import Delivered
from raybd.tracking.records import (
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
from raybd.tracking.sender import AT_ONCE, Sender, read_state


class Tracker:
    """Writes one run folder's study to MLflow: a parent run, a child run per trial, models for the front.

    Nothing here raises because MLflow is down: records then wait in `run_dir/outbox.jsonl`, MLflow is tried
    again after a pause and at `finish`, and `sync` delivers the rest. Every record has a key, so that giving a
    resumed study's trials again costs little and writes nothing twice.

    Args:
        uri: `http://HOST:PORT`, `sqlite:///FILE`, or None for SQLite in the run folder.
        run_dir: the study's run folder; nothing is written there before the first record.
        study: the study's name; the experiment is `raybd/<study>`.
        base: the study's folder, from which a relative `sqlite:///FILE` counts; without it the run folder.

    Raises:
        BadInput: if `uri` is none that MLflow can use.
    """

    def __init__(self, uri: str | None, run_dir: Path, study: str, *, base: Path | None = None) -> None:
        self._sender = Sender(uri, run_dir, study, base)
        self._run_dir, self._study = run_dir, study

    @property
    def uri(self) -> str:
        """The address that MLflow's own tools take, such as `mlflow ui --backend-store-uri`."""
        return self._sender.uri

    @property
    def waiting(self) -> int:
        """How many records wait in the outbox; `reason` says why."""
        return self._sender.waiting

    @property
    def reason(self) -> str:
        """Why the last delivery failed, in one line; empty when it did not."""
        return self._sender.reason

    def start(self, *, params: Mapping[str, Any], tags: Mapping[str, Any], artifacts: Mapping[str, str | Path]) -> None:
        """Open the run folder's own run, or take it up again; artifacts are texts or paths, by name.

        Raises:
            BadInput: if MLflow answers that the study cannot be written there.
        """
        self._sender.check()
        self._send_parent("start", artifacts, status="RUNNING", params=as_params(params), tags=as_tags(tags))

    def trial(self, record: Mapping[str, Any]) -> None:
        """Write one trial of the search, as `search/card.json` holds it."""
        self._sender.send(trial_record(self._sender.run_key, record))

    def trials(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write several trials, some at the same time, each as `trial` does."""
        self._sender.send_together([trial_record(self._sender.run_key, record) for record in records])

    def reference(self, name: str, row: Mapping[str, Any]) -> None:
        """Write one row of the assessment (a reference, the suspect, the selected) as `assess/card.json` does."""
        self._sender.send(row_record(self._sender.run_key, name, row, json.dumps(as_json(row), indent=2)))

    def sequela(self, sequela: Mapping[str, Any]) -> None:
        """Write the sequela, as `assess/card.json` holds them, into the study's own run."""
        texts = {"sequela.json": json.dumps(as_json(sequela), indent=2)}
        self._send_parent("sequela", texts, status="RUNNING", metrics=sequela_figures(sequela))

    def finish(
        self, metrics: Mapping[str, Any], tags: Mapping[str, Any], artifacts: Mapping[str, str | Path]
    ) -> Delivered:
        """Close the study's own run and try to deliver all that waits."""
        self._sender.try_now()
        points = tuple(figures(metrics))
        return self._send_parent(
            "finish", artifacts, at_once=None, status="FINISHED", metrics=points, tags=as_tags(tags)
        )

    def model(
        self,
        number: int | str,
        *,
        model: object,
        weights: Path,
        card: Mapping[str, Any],
        example: np.ndarray,
    ) -> str | None:
        """Log a model of the front (`number` is its trial's) or another by name; return its `models:/m-...`.

        Args:
            number: the trial's number; or a name, such as `candidate`, for a model that will be promoted:
                MLflow is then tried now, however recently it failed.
            model: an `nn.Module` that takes float images in [0, 1]; a copy is traced on the CPU.
            weights: the same model's safetensors file; its content is the model's identity in MLflow.
            card: what is known of the model, stored beside it as `card.json`.
            example: two images, float32 (2, c, h, w).

        Returns:
            The model's address, or None while it waits in the outbox.

        Raises:
            Untraceable: if the model cannot be traced; nothing was logged and nothing waits.
        """
        if isinstance(number, str):
            self._sender.try_now()
        record = self._model_record(number if isinstance(number, str) else f"trial-{number}", weights)
        address = self._sender.model_uri(record.key)
        if address is not None:
            return address
        folder = self._run_dir / str(record.folder)
        if not folder.is_dir():
            from raybd.tracking.export import export_model

            export_model(model, folder, weights=weights, card=card, example=example)
        self._sender.send(record)
        return self._sender.model_uri(record.key)

    def promote(self, *, name: str, alias: str, model_uri: str | None, tags: Mapping[str, Any]) -> registry.Version:
        """Register the model, set its tags, then move the alias; see `registry.promote`.

        Raises:
            Unreachable: if MLflow does not answer, or the model waits in the outbox (`model_uri` is None).
            BadInput: for a name or alias that MLflow reserves, or if it knows no such user and password.
        """
        registry.check_names(name, alias)
        if model_uri is None:
            check_let_in(self.uri, self._sender.error)
            raise Unreachable(
                f"tracking.uri: the model has not reached MLflow at {self.uri}, so nothing was promoted; "
                f"repeat it when the server is back ({self.reason or 'it waits in the outbox'})"
            )
        given = {"raybd.run": self._sender.run_key, "raybd.study": self._study, **tags}
        return registry.promote(self.uri, name=name, alias=alias, model_uri=model_uri, tags=as_tags(given))

    def rollback(self, *, name: str, alias: str) -> registry.Version:
        """Give the alias back to its previous holder; see `registry.rollback`."""
        return registry.rollback(self.uri, name=name, alias=alias)

    def _send_parent(
        self, what: str, artifacts: Mapping[str, str | Path], *, at_once: int | None = AT_ONCE, **fields: Any
    ) -> Delivered:
        texts, files = split_artifacts(artifacts, self._run_dir)
        time_now = self._sender.tick()
        record = Record(
            key=f"{self._sender.run_key}:{what}:{uuid.uuid4().hex[:12]}",  # each time it is said, it is said anew
            kind="parent",
            name=what,
            started=time_now,
            ended=time_now,
            texts=texts,
            files=files,
            **fields,
        )
        return self._sender.send(record, at_once)

    def _model_record(self, name: str, weights: Path) -> Record:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        time_now = now()
        return Record(
            key=f"{self._sender.run_key}:model:{name}:{digest[:16]}",
            kind="model",
            name=name,
            started=time_now,
            ended=time_now,
            tags={"raybd.weights_file_sha256": digest, "raybd.run": self._sender.run_key},
            folder=f"mlmodels/{name}-{digest[:16]}",
        )


def sync(run_dir: Path, uri: str | None = None, *, base: Path | None = None) -> Delivered:
    """Deliver what waits in the run folder, each record exactly once, also beside a running search.

    Args:
        run_dir: the study's run folder.
        uri: the address that the study names now; without one, the database of the run folder, or the SQLite file
            that was last named. A server must be named: it is sent passwords, which a file in the run folder may not
            direct.
        base: the study's folder, from which a relative `sqlite:///FILE` counts; without it the run folder.

    Raises:
        BadInput: if nothing was ever tracked in this folder, or on a server that the study does not name.
    """
    state = read_state(run_dir)
    kept = state["uri"]
    if uri is None and kept is not None and not kept.startswith("sqlite"):
        raise BadInput(
            f"tracking.uri: the study names no server, but {run_dir} was last tracked at {kept!r:.200}; "
            "name that server in the study if its records shall go there"
        )
    return Sender(state["uri"] if uri is None else uri, run_dir, state["study"], base).flush()
