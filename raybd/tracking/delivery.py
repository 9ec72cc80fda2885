"""Delivers one record to MLflow so that repeating it, also after a crash midway, writes nothing twice."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raybd.registry import BadInput
from raybd.tracking.client import artifact_root, connect, is_outage
from raybd.tracking.records import TAG, Record

WRITERS = 4
"""Trials written at the same time: each takes three calls one after the other, in which its writer mostly waits."""
_DONE = ("FINISHED", "FAILED", "KILLED")


def experiment_of(study: str) -> str:
    """Return the name of a study's experiment in MLflow."""
    return f"raybd/{study}"


class Delivery:
    """Sends the records of one run folder to one MLflow.

    Whatever is created is created under its record's tag, and looked for before: the runs of the folder are
    listed once, and again after `forget`, as after any failure: a call that failed here may have succeeded there.
    """

    def __init__(self, *, uri: str, run_dir: Path, study: str, run_key: str) -> None:
        self._uri, self._run_dir, self._study, self._run_key = uri, run_dir, study, run_key
        self._connection: Any = None
        self._experiment_id = ""
        self._parent_id = ""
        self._runs: dict[str, tuple[str, str]] = {}

    @property
    def client(self) -> Any:
        """The `MlflowClient`, connected on first use."""
        if self._connection is None:
            self._connection = connect(self._uri)
        return self._connection

    def deliver(self, record: Record) -> bool:
        """Write `record`; return False if all of it was there already.

        Raises:
            Exception: whatever MLflow and its artifact store raise; the record may then be written in part.
        """
        writers = {"child": self._child, "parent": self._parent, "model": self._model}
        try:
            self.parent_id()
            return writers[record.kind](record)
        except Exception:
            self.forget()
            raise

    def deliver_together(self, records: Sequence[Record]) -> dict[str, Exception]:
        """Write child records, several at a time; return what those that could not be written raised, by key.

        Raises:
            Exception: if the parent run cannot be found or made; then none was written.
        """
        try:
            self.parent_id()
        except Exception:
            self.forget()
            raise
        at_once = 1 if self._uri.startswith("sqlite") else WRITERS  # SQLite takes one writer
        with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="mlflow-child") as pool:
            written = {record.key: pool.submit(self._child, record) for record in records}
        errors = {key: error for key, future in written.items() if isinstance(error := future.exception(), Exception)}
        if errors:
            self.forget()
        return errors

    def forget(self) -> None:
        """Look again, at the next record, for what MLflow has: a failed call or another sender may have written."""
        self._parent_id, self._runs = "", {}

    def answers(self) -> bool:
        """Tell whether MLflow does anything at all for us now."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception as error:  # noqa: BLE001 - any database or web library may stand behind the client
            return not is_outage(error)
        return True

    def parent_id(self) -> str:
        """Return the id of the run folder's own run, found or created."""
        if not self._parent_id:
            tag = f"{self._run_key}:study"
            found = self._search(f"tags.`{TAG}` = '{tag}'")
            if not found:
                tags = {TAG: tag, "raybd.kind": "study"}
                found = [self.client.create_run(self._experiment(), tags=tags, run_name=self._study)]
            parent = str(found[0].info.run_id)
            children = self._search(f"tags.`mlflow.parentRunId` = '{parent}'")
            ours = [run for run in children if TAG in run.data.tags]
            self._runs = {run.data.tags[TAG]: (run.info.run_id, run.info.status) for run in ours}
            self._parent_id = parent
        return self._parent_id

    def model_uri(self, key: str) -> str | None:
        """Return the address of the finished model of this record, if it is there."""
        models = [m for m in self._models(key) if m.status.value == "READY"]
        return str(models[0].model_uri) if models else None

    def _experiment(self) -> str:
        if not self._experiment_id:
            name = experiment_of(self._study)
            found = self.client.get_experiment_by_name(name) or self._new_experiment(name)
            if found.lifecycle_stage != "active":
                raise BadInput(
                    f"name: MLflow's experiment '{name}' was deleted; restore it there "
                    "(`mlflow experiments restore`) or rename the study"
                )
            self._experiment_id = found.experiment_id
        return self._experiment_id

    def _new_experiment(self, name: str) -> Any:
        try:
            self.client.create_experiment(name, artifact_location=artifact_root(self._uri, self._run_dir))
        except Exception:
            # Another process may have created it since we looked.
            if self.client.get_experiment_by_name(name) is None:
                raise
        return self.client.get_experiment_by_name(name)

    def _search(self, query: str) -> list[Any]:
        found, token = [], None
        while True:
            page = self.client.search_runs([self._experiment()], query, max_results=1000, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                return found

    def _child(self, record: Record) -> bool:
        run_id, status = self._runs.get(record.key, ("", ""))
        if status in _DONE:
            return False
        if not run_id:
            tags = {**record.tags, TAG: record.key, "mlflow.parentRunId": self._parent_id}
            run = self.client.create_run(self._experiment(), record.started, tags=tags, run_name=record.name)
            run_id = run.info.run_id
        self._write(run_id, record, record.params, {})
        self.client.set_terminated(run_id, record.status, record.ended)
        self._runs[record.key] = (run_id, record.status)
        return True

    def _parent(self, record: Record) -> bool:
        run = self.client.get_run(self._parent_id)
        # A parameter is never changed in MLflow: what a resumed study has new becomes a tag.
        held = run.data.params
        fresh = {name: value for name, value in record.params.items() if name not in held}
        changed = {f"raybd.now.{k}": v for k, v in record.params.items() if k in held and held[k] != v}
        self._write(self._parent_id, record, fresh, {**record.tags, **changed})
        if (run.info.end_time or 0) > record.ended:
            return True  # an old record that waited: the run was closed since
        if record.status == "RUNNING":
            self.client.update_run(self._parent_id, status="RUNNING")
        else:  # the server's clock, which said when the run began, may be ahead of ours
            self.client.set_terminated(self._parent_id, record.status, max(record.ended, run.info.start_time))
        return True

    def _write(self, run_id: str, record: Record, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(f.name, f.value, record.ended, f.step) for f in record.metrics]
        all_params = [Param(k, v) for k, v in params.items()]
        all_tags = [RunTag(k, v) for k, v in tags.items()]
        for at in range(0, max(len(metrics), len(all_params), len(all_tags)), 100):
            part = slice(at, at + 100)  # no more parameters or tags fit into one call
            self.client.log_batch(run_id, metrics[part], all_params[part], all_tags[part])
        for name, text in record.texts.items():
            self.client.log_text(run_id, text, name)
        for name, path in record.files.items():
            self._upload(run_id, name, self._run_dir / path)

    def _upload(self, run_id: str, name: str, path: Path) -> None:
        folder = Path(name).parent.as_posix()
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / Path(name).name  # MLflow names an artifact as its file
            shutil.copyfile(path, copy)
            self.client.log_artifact(run_id, str(copy), None if folder == "." else folder)

    def _models(self, key: str) -> list[Any]:
        return list(self.client.search_logged_models([self._experiment()], f"tags.`{TAG}` = '{key}'"))

    def _model(self, record: Record) -> bool:
        begun = self._models(record.key)
        if any(model.status.value == "READY" for model in begun):
            return False
        if record.folder is None or not (self._run_dir / record.folder).is_dir():
            raise FileNotFoundError(f"the model folder {record.folder} is gone from the run folder")
        source = self._source_run(record)
        tags = {**record.tags, TAG: record.key}
        model = (
            begun[0]
            if begun
            else self.client.create_logged_model(self._experiment(), record.name, source, tags, record.params)
        )
        self._join(source, model.model_id)
        folder = self._run_dir / record.folder
        _address(folder, model, source)
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        return True

    def _source_run(self, record: Record) -> str:
        """The trial's run where the model is a trial's, else the study's."""
        trial = f"{self._run_key}:trial:{record.name.removeprefix('trial-')}:"
        runs = [run_id for key, (run_id, _) in self._runs.items() if key.startswith(trial)]
        return runs[0] if runs else self._parent_id

    def _join(self, run_id: str, model_id: str) -> None:
        from mlflow.entities import LoggedModelOutput

        outputs = self.client.get_run(run_id).outputs
        if not any(output.model_id == model_id for output in outputs.model_outputs):
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _address(folder: Path, model: Any, run_id: str) -> None:
    """Write into the exported model where it lives, as `log_model` would have."""
    from mlflow.models import Model

    exported = Model.load(str(folder))
    exported.model_id = exported.model_uuid = model.model_id
    exported.artifact_path, exported.run_id = model.artifact_location, run_id
    exported.save(str(folder / "MLmodel"))
