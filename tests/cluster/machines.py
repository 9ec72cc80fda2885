"""Machines that keep copies of their run folders on one S3 server, and wait seconds where real ones wait minutes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raybd.registry import BadInput
from raybd.settings import StudySettings
from raybd.stages import lease, sending
from raybd.stages.bucket import Prefix, StorageDown
from raybd.stages.holding import fetch, keeping, take
from raybd.stages.lease import MARK
from raybd.stages.sendable import SENT
from tests import studies
from tests.cluster.s3 import S3, serving
from tests.studies import contents


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with serving(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for minutes; S3 tells ages in whole seconds."""
    monkeypatch.setattr(lease, "EVERY_SECONDS", 0.2)
    monkeypatch.setattr(lease, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(lease, "WAIT_SECONDS", 5.0)
    monkeypatch.setattr(lease, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(sending, "BRIEFLY_SECONDS", 0.5)


class Machine:
    """A folder of run folders, and the study whose run lies in it."""

    def __init__(self, runs: Path, settings: StudySettings) -> None:
        self.runs, self.settings, self.run = runs, settings, runs / settings.name

    @contextmanager
    def stage(self) -> Iterator[None]:
        with keeping():
            fetch(self.settings, self.runs)
            take(self.settings, self.runs)
            yield

    def works(self) -> None:
        with self.stage():
            pass

    def sees(self) -> dict[str, bytes]:
        return {name: content for name, content in contents(self.run).items() if name not in (MARK, SENT, ".lock")}


@pytest.fixture
def here(server: S3, tmp_path: Path, quick: None) -> Machine:
    cluster = {"storage": "s3://bucket/raybd", "s3_endpoint": server.endpoint}
    machine = Machine(tmp_path / "here", studies.study(tmp_path, name=tmp_path.name, cluster=cluster))
    (machine.run / "search" / "trials" / "3").mkdir(parents=True)
    (machine.run / "study.json").write_text("{}")
    (machine.run / "search" / "trials" / "3" / "weights.safetensors").write_bytes(b"w" * 5000)
    return machine


@pytest.fixture
def there(here: Machine, tmp_path: Path) -> Machine:
    return Machine(tmp_path / "there", here.settings)


@pytest.fixture
def copy(here: Machine, server: S3) -> Prefix:
    return Prefix(f"s3://bucket/raybd/{here.settings.name}", server.endpoint)


def elsewhere(act: Callable[[], object]) -> str:
    """Do something as another process would, which holds nothing of ours; return what it was refused with."""
    told: list[str] = []

    def other() -> None:
        try:
            act()
        except BadInput as error:
            told.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    return "".join(told)


def down(*_: object, **__: object) -> None:
    """What S3 does while it is away."""
    raise StorageDown("no answer")


def mark(copy: Prefix) -> dict[str, object]:
    """What the mark beside a copy says."""
    found = copy.read(MARK)
    assert found is not None
    told: dict[str, object] = json.loads(found.content)
    return told
