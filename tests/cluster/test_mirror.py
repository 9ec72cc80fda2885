"""A run folder's copy on S3: whole, current, safe against another machine's, and no obstacle while S3 is down."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd.registry import BadInput
from raybd.stages import mirror
from raybd.stages.mirror import MARK, Mirror, mirrored
from tests.cluster.s3 import CREDENTIALS, S3
from tests.studies import contents

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
URL = "s3://bucket/raybd"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    running = S3(tmp_path_factory.mktemp("s3"))
    running.start()
    running.make_bucket("bucket")
    yield running
    running.stop()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "here" / tmp_path.name
    (run / "search" / "trials" / "3").mkdir(parents=True)
    (run / "study.json").write_text("{}")
    (run / "search" / "trials" / "3" / "weights.safetensors").write_bytes(b"w" * 5000)
    return run


def plain(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name != MARK}


def elsewhere(folder: Path) -> Path:
    return folder.parents[1] / "there" / folder.name


def test_the_copy_is_the_folder_also_where_the_block_was_left_by_an_error(server: S3, folder: Path) -> None:
    def stage() -> None:
        with mirrored(folder, URL, server.endpoint):
            (folder / "study.json").write_text('{"name": 1}')
            shutil.rmtree(folder / "search" / "trials" / "3")
            (folder / "search" / "card.json").write_text("[]")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage()
    found = elsewhere(folder)
    with mirrored(found, URL, server.endpoint):
        assert plain(found) == plain(folder)


def test_what_changes_is_sent_while_the_block_runs(server: S3, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "EVERY_SECONDS", 0.05)
    found = elsewhere(folder)
    with mirrored(folder, URL, server.endpoint):
        for _ in range(100):
            shutil.rmtree(found, ignore_errors=True)
            if Mirror(found, URL, server.endpoint).fetch() >= 3:  # the two and the mark
                break
        assert plain(found) == plain(folder)


def test_a_folder_that_another_machine_has_gone_on_with_is_refused_and_left(server: S3, folder: Path) -> None:
    with mirrored(folder, URL, server.endpoint):
        pass
    with mirrored(elsewhere(folder), URL, server.endpoint):
        (elsewhere(folder) / "study.json").write_text("theirs")
    before = contents(folder)
    with pytest.raises(BadInput, match="as another machine left it"), mirrored(folder, URL, server.endpoint):
        pass
    assert contents(folder) == before
    with mirrored(elsewhere(folder), URL, server.endpoint):  # whereas it goes on
        pass


def test_a_claim_that_was_killed_half_way_is_still_ours(
    server: S3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(folder, URL, server.endpoint):
        pass

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            Mirror(folder, URL, server.endpoint).send(ended=True)
    with mirrored(folder, URL, server.endpoint):
        pass


def test_an_outage_holds_nothing_up_and_what_is_unsaved_at_the_end_is_said(
    server: S3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 0.5)

    def down(*_: object) -> None:
        raise OSError("no answer")

    def stage(patched: pytest.MonkeyPatch) -> None:
        with mirrored(folder, URL, server.endpoint):
            patched.setattr(Mirror, "_write", down)

    with monkeypatch.context() as patched, pytest.raises(BadInput, match=r"cannot be written \(no answer\)"):
        stage(patched)
    with mirrored(folder, URL, server.endpoint):
        pass
    with mirrored(elsewhere(folder), URL, server.endpoint):
        assert plain(elsewhere(folder)) == plain(folder)


def test_a_copy_that_reaches_outside_the_folder_is_refused(server: S3, folder: Path) -> None:
    found = elsewhere(folder)
    reached = Mirror(found, URL, server.endpoint)
    reached._listed = lambda: {"../../../escaped": 1}  # type: ignore[method-assign]
    with pytest.raises(BadInput, match="outside the run"):
        reached.fetch()
    assert not (found / "../../../escaped").exists()


def test_what_passes_is_not_copied(server: S3, folder: Path) -> None:
    for name in (".x.draft", "search/ray/y", ".tracking.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("passing")
    with mirrored(folder, URL, server.endpoint):
        pass
    with mirrored(elsewhere(folder), URL, server.endpoint):
        assert "passing" not in {content.decode(errors="replace") for content in contents(elsewhere(folder)).values()}
