"""Versions and aliases of the model registry: promote, roll back, fetch."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.registry import BadInput, within
from raybd.tracking.client import is_missing, resolve_uri, speaking

_SOURCE_TAG = "raybd.model_uri"
_MODEL_URI = re.compile(r"models:/(?:(?P<id>m-\w+)|(?P<name>[^/:]+?)(?:@(?P<alias>[\w\-]+)|/(?P<version>\d+)))")
_WEIGHTS = "extra_files/weights.safetensors"
_CONVERT = (
    "raybd does not unpickle models, because a pickle can run any code. Where you trust it, load it yourself, "
    "write safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'), and give that file, or log "
    "the model again with extra_files=['weights.safetensors']"
)


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model and the alias that now stands on it.

    `previous_version` held the alias before: after `promote` it is what `rollback` would restore (None if there
    is none), after `rollback` it is the version that was rolled back.
    """

    name: str
    version: str
    alias: str
    model_uri: str
    previous_version: str | None


def check_names(name: str, alias: str) -> None:
    """Refuse a model name (`plain_name`) or an alias (`free_alias`) that MLflow cannot hold.

    Raises:
        BadInput: naming `tracking.model_name` or `tracking.alias`.
    """
    for key, rule, value in (("model_name", plain_name, name), ("alias", free_alias, alias)):
        try:
            rule(value)
        except BadInput as error:
            raise BadInput(f"tracking.{key}: {error}") from error


def plain_name(name: str) -> str:
    """Return `name` if it can name a folder, an experiment and a registered model.

    Raises:
        BadInput: saying what was expected, without the key, which the caller knows.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"expected letters, digits, '.', '_' and '-', the first a letter or digit, got {name!r}")
    return name


def free_alias(alias: str) -> str:
    """Return `alias` if MLflow lets a person set it.

    Raises:
        BadInput: saying what was expected, without the key, which the caller knows.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,254}", alias) or re.fullmatch(r"(?i:latest|v\d+)", alias):
        raise BadInput(f"expected letters, digits, '_', '-', not 'latest' or 'v1' (taken by MLflow), got {alias!r}")
    return alias


def promote(uri: str, *, name: str, alias: str, model_uri: str, tags: Mapping[str, str]) -> Version:
    """Register the model as a version of `name`, set its tags, then move `alias` to it.

    The same model is registered once: repeating the call, also after an interruption, ends in the same state.
    The alias's earlier holders are kept as a tag of the version, for `rollback`.

    Raises:
        Unreachable: if MLflow does not answer; what is not done yet is done by repeating the call.
        BadInput: for a bad name or alias, or if MLflow refuses.
    """
    check_names(name, alias)
    with speaking(uri, "the alias did not move") as client:
        version = _registered(client, uri, name, model_uri, tags)
        holder = _holder(client, name, alias)
        stands = holder is not None and holder.version == version.version
        earlier = _history(version if stands else holder, alias)
        if holder is not None and not stands:
            earlier.append(str(holder.version))
        for key, value in {**tags, _SOURCE_TAG: model_uri, _history_tag(alias): ",".join(earlier)}.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(name, version.version, key, value)
        if not stands:
            client.set_registered_model_alias(name, alias, version.version)
    return Version(
        name=name,
        version=str(version.version),
        alias=alias,
        model_uri=model_uri,
        previous_version=earlier[-1] if earlier else None,
    )


def rollback(uri: str, *, name: str, alias: str) -> Version:
    """Give `alias` back to the version that held it before; repeated, it goes one further back each time.

    Raises:
        Unreachable: if MLflow does not answer.
        BadInput: if the alias does not exist, has no earlier holder on record, or that version is gone.
    """
    check_names(name, alias)
    with speaking(uri, "the alias did not move") as client:
        holder = _holder(client, name, alias)
        if holder is None:
            raise BadInput(f"tracking.alias: no version of '{name}' in {uri} holds '{alias}'; nothing to undo")
        *older, before = _history(holder, alias) or [""]
        if not before:
            raise BadInput(
                f"tracking.alias: '{alias}' stands on version {holder.version} of '{name}', "
                "which has no earlier holder on record; nothing was changed"
            )
        version = _version(client, name, before)
        if version is None:
            raise BadInput(
                f"tracking.alias: version {before} of '{name}', which held '{alias}' before, no longer exists; "
                "nothing was changed, set the alias by hand in MLflow"
            )
        # The restored version may have been promoted more than once: what is behind it now is set first.
        client.set_model_version_tag(name, before, _history_tag(alias), ",".join(older))
        client.set_registered_model_alias(name, alias, before)
    return Version(
        name=name,
        version=before,
        alias=alias,
        model_uri=version.tags.get(_SOURCE_TAG, str(version.source)),
        previous_version=str(holder.version),
    )


def fetch(model_uri: str, *, tracking_uri: str | None, folder: Path, base: Path | None = None) -> Path:
    """Download the safetensors weights of a registered model into `folder` and return the file's path.

    Args:
        model_uri: `models:/name@alias`, `models:/name/version` or `models:/m-...`.
        tracking_uri: where the registry is.
        folder: created if need be.
        base: the study's folder, from which a relative `sqlite:///FILE` counts; without it `folder`.

    Raises:
        Unreachable: if MLflow does not answer.
        BadInput: if there is no such model, or it was logged without `weights.safetensors`.
    """
    parsed = _MODEL_URI.fullmatch(model_uri)
    if parsed is None:
        raise BadInput(f"suspect.weights: got {model_uri!r}; expected models:/NAME@ALIAS or models:/NAME/VERSION")
    if tracking_uri is None:
        raise BadInput(f"suspect.weights: {model_uri} needs tracking.uri, the registry that holds it")
    tracking_uri = resolve_uri(tracking_uri, folder, base)
    with speaking(tracking_uri, f"{model_uri} was not fetched") as client:
        import mlflow.artifacts

        location = _location(client, parsed, model_uri, tracking_uri)
        held = mlflow.artifacts.list_artifacts(f"{location}/extra_files", tracking_uri=tracking_uri)
        if "weights.safetensors" not in {Path(file.path).name for file in held if not file.is_dir}:
            raise BadInput(f"suspect.weights: {model_uri} holds no {_WEIGHTS}. {_CONVERT}")
        folder.mkdir(parents=True, exist_ok=True)
        file = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location}/{_WEIGHTS}", dst_path=str(folder), tracking_uri=tracking_uri
            )
        )
        if not file.is_file() or not within(file, folder):
            raise BadInput(f"suspect.weights: what {model_uri} holds did not arrive in {folder} as a file")
        return file


def _location(client: Any, parsed: "re.Match[str]", model_uri: str, tracking_uri: str) -> str:
    name, alias, version = parsed["name"], parsed["alias"], parsed["version"]
    try:
        if parsed["id"]:
            return str(client.get_logged_model(parsed["id"]).artifact_location)
        number = version or client.get_model_version_by_alias(name, alias).version
        return str(client.get_model_version_download_uri(name, number))
    except Exception as error:
        if is_missing(error) or getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
            raise BadInput(f"suspect.weights: no {model_uri} in the registry at {tracking_uri}") from error
        raise


def _registered(client: Any, uri: str, name: str, model_uri: str, tags: Mapping[str, str]) -> Any:
    """The version of `name` made from this model, created where there is none."""
    try:
        client.create_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        for version in page:
            if model_uri in (version.source, version.tags.get(_SOURCE_TAG)):
                return version
        token = page.token
        if not token:
            break
    model_id = model_uri.removeprefix("models:/")
    run_id = client.get_logged_model(model_id).source_run_id
    all_tags = {**tags, _SOURCE_TAG: model_uri}
    with _process_wide(uri):
        return client.create_model_version(name, model_uri, run_id, all_tags, await_creation_for=60, model_id=model_id)


@contextmanager
def _process_wide(uri: str) -> Iterator[None]:
    """MLflow's SQL registry looks the model up at the process-wide address, else in a stray ./mlflow.db."""
    import mlflow

    was_set: bool = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    before: Any = mlflow.get_tracking_uri() if was_set else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _holder(client: Any, name: str, alias: str) -> Any | None:
    number = client.get_registered_model(name).aliases.get(alias)
    return None if number is None else client.get_model_version(name, number)


def _version(client: Any, name: str, number: str) -> Any | None:
    try:
        return client.get_model_version(name, number)
    except Exception as error:
        if is_missing(error):
            return None
        raise


def _history_tag(alias: str) -> str:
    return f"raybd.holders_before.{alias}"


def _history(version: Any, alias: str) -> list[str]:
    """The versions that held the alias before this one, oldest first."""
    if version is None:
        return []
    return [number for number in version.tags.get(_history_tag(alias), "").split(",") if number]
