"""The section `cluster` of a study file: where it runs when it is submitted, and what outlives a machine."""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from raybd.addresses import without_password
from raybd.registry import BadInput
from raybd.settings.sections import Section

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ROUTES = "http://HOST:PORT or https://HOST:PORT"


def job_server(address: str) -> str:
    """Return the address of Ray's job server, if it is one."""
    if address.startswith("ray://"):
        raise BadInput(
            "got ray://, Ray Client, under which Tune falls back to an older engine; "
            "expected the job server's address, as a rule http://HEAD:8265"
        )
    return _web(address, "cluster.address", "RAY_AUTH_MODE=token with RAY_AUTH_TOKEN")


def _endpoint(address: str) -> str:
    return _web(address, "cluster.s3_endpoint", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def _web(address: str, where: str, instead: str) -> str:
    parts = without_password(address, where=where, instead=instead)
    if parts.username is not None:
        raise BadInput(f"expected {_ROUTES} without a user; use {instead}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadInput(f"expected {_ROUTES}, got {address!r}")
    return address.rstrip("/")


def _storage(place: str) -> str:
    """Return an S3 prefix or a shared folder; the two are told apart by how they begin."""
    if place.startswith("s3://"):
        instead = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        parts = without_password(place, where="cluster.storage", instead=instead)
        if "@" in parts.netloc:
            raise BadInput(f"expected s3://BUCKET/PREFIX without a key; use {instead}")
        plain = not parts.query and not parts.fragment and ".." not in parts.path.split("/")
        if not _BUCKET.fullmatch(parts.netloc) or not plain:
            raise BadInput(f"expected s3://BUCKET or s3://BUCKET/PREFIX, got {place!r}")
        return place.rstrip("/")
    if not PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise BadInput(f"expected s3://BUCKET/PREFIX or the absolute path of a shared folder, got {place!r}")
    return str(PurePosixPath(place))


def _database(address: str) -> str:
    parts = without_password(address, where="cluster.optuna", instead="PGPASSWORD")
    if parts.scheme != "postgresql" or not parts.hostname or not parts.path.strip("/"):
        raise BadInput(f"expected postgresql://USER@HOST:PORT/DATABASE, got {address!r}")
    return address


class ClusterSettings(Section):
    """The cluster that `raybd submit` sends the study to, where its state outlives a machine, and who runs where.

    None of it makes another study of it. No address holds a password: secrets come from the environment. `spread`
    gives each machine as few trials as it can, `pack` fills the largest machine before it takes another.
    """

    address: Annotated[str, AfterValidator(job_server)] | None = None
    storage: Annotated[str, AfterValidator(_storage)] | None = None
    s3_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    optuna: Annotated[str, AfterValidator(_database)] | None = None
    placement: Literal["spread", "pack"] = "spread"

    @model_validator(mode="after")
    def _endpoint_of_something(self) -> Self:
        if self.s3_endpoint is not None and not (self.storage or "").startswith("s3://"):
            raise BadInput("cluster.s3_endpoint: only with cluster.storage on S3, s3://BUCKET/PREFIX")
        return self

    @property
    def folder(self) -> Path | None:
        """The shared folder that holds run folders, where `storage` is a path."""
        return Path(self.storage) if self.storage is not None and self.storage.startswith("/") else None

    def runs(self, given: Path | None) -> Path:
        """Where run folders lie: where the user says, else on the shared folder, else in `runs` here."""
        return given or self.folder or Path("runs")
