"""A prefix on S3 as files by name: listed, read, written and deleted, with S3's own word on their age and version."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from raybd.registry import BadInput, Outage

ANY = "*"
"""Over whatever is there, if anything is."""
_CONFLICT, _LATER, _NOT_THERE, _UNKNOWN = (409, 412), (408, 429), 404, 501
"""What S3 answers: the file is no longer as the writer knew it; ask again; no such file; it knows no conditions."""


class StorageDown(Outage):
    """S3 did not do what was asked of it. `refused`: it answered, or cannot be asked, and will say no again."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Changed(StorageDown):
    """A file is no longer the version that was to be written over."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file on S3. `version` changes with its content; `age` is in seconds by S3's own clock, 0 if it tells none."""

    content: bytes
    version: str
    age: float


class Prefix:
    """The files below one S3 address. All methods raise `StorageDown`; threads may share it.

    Raises:
        BadInput: if no client can be made of the address and the environment.
    """

    def __init__(self, url: str, endpoint: str | None) -> None:
        self.url = url
        self._bucket, _, self._base = url.removeprefix("s3://").partition("/")
        self._client = _client(endpoint)

    def listed(self) -> dict[str, str]:
        """Return the version of each file, by its name."""
        start = f"{self._base}/"
        with self._asking():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
            found = [each for page in pages for each in page.get("Contents", ())]
        return {each["Key"].removeprefix(start): each["ETag"] for each in found if not each["Key"].endswith("/")}

    def read(self, name: str) -> Found | None:
        """Return a file; None if it is not there."""
        with self._asking():
            try:
                got = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            except self._client.exceptions.NoSuchKey:
                return None
            content = got["Body"].read()
        return Found(content=content, version=got["ETag"], age=_age(got))

    def version(self, name: str) -> str | None:
        """Return the version of a file; None if it is not there."""
        with self._asking():
            try:
                return str(self._client.head_object(Bucket=self._bucket, Key=self._key(name))["ETag"])
            except self._client.exceptions.ClientError as error:
                if _status(error) != _NOT_THERE:
                    raise
                return None

    def write(self, name: str, content: bytes, over: str | None = ANY) -> str:
        """Write a file over the version `over`, None for none, and return its version.

        A server that knows no conditions writes it over whatever is there.

        Raises:
            Changed: if another version is there.
            StorageDown: if S3 does not take it.
        """
        where = {"Bucket": self._bucket, "Key": self._key(name), "Body": content}
        condition = {} if over == ANY else {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        with self._asking():
            try:
                return str(self._client.put_object(**where, **condition)["ETag"])
            except self._client.exceptions.ClientError as error:
                if condition and error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    raise Changed(_line(error)) from error
                if not condition or _status(error) != _UNKNOWN:
                    raise
                return str(self._client.put_object(**where)["ETag"])

    def delete(self, name: str) -> None:
        """Delete a file, which need not be there."""
        with self._asking():
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            status = _status(error)
            if status in _CONFLICT:
                raise Changed(_line(error)) from error
            raise StorageDown(_line(error), refused=400 <= status < 500 and status not in _LATER) from error
        except BotoCoreError as error:
            raise StorageDown(_line(error), refused=isinstance(error, NoCredentialsError)) from error


def _client(endpoint: str | None) -> Any:
    """Credentials and region come from the environment, as for every client of S3."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise BadInput(f"cluster.storage: S3 needs a client; pip install 'raybd[cluster]' ({error})") from error
    config = Config(
        connect_timeout=10,
        read_timeout=30,  # a dead server is tried again by us, and must not hold up an end
        retries={"mode": "standard", "total_max_attempts": 2},
        s3={"addressing_style": "auto" if endpoint is None else "path"},  # a host of one's own has no names of buckets
        request_checksum_calculation="when_required",  # nor, as a rule, AWS's newer checksums
        response_checksum_validation="when_required",
    )
    try:
        return boto3.client("s3", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:  # a profile that is not there; an address that is none
        raise BadInput(f"cluster.storage: no client of S3 can be made ({_line(error)})") from error


def _age(got: Any) -> float:
    try:
        told = parsedate_to_datetime(got["ResponseMetadata"]["HTTPHeaders"]["date"])
        return float((told - got["LastModified"]).total_seconds())
    except (KeyError, TypeError, ValueError):
        return 0.0


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
