"""A run folder's copy on S3: whole, current, and no obstacle while S3 is down."""

import shutil
import sqlite3
import time

import pytest

from raybd.registry import BadInput, Outage
from raybd.stages.bucket import Prefix
from raybd.stages.lease import MARK
from tests.cluster.machines import Machine, copy, down, here, mark, quick, server, there
from tests.cluster.s3 import S3
from tests.studies import contents

__all__ = ["copy", "here", "quick", "server", "there"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_the_copy_is_the_folder_also_where_the_block_was_left_by_an_error(here: Machine, there: Machine) -> None:
    def stage() -> None:
        with here.stage():
            (here.run / "study.json").write_text('{"name": 1}')
            shutil.rmtree(here.run / "search" / "trials" / "3")
            (here.run / "search" / "card.json").write_text("[]")
            (here.run / "mlflow.db").write_bytes(b"damaged, and yet not lost" * 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage()
    there.works()
    assert there.sees() == here.sees()
    assert [path.name for path in there.runs.iterdir()] == [there.run.name]


def test_what_changes_is_sent_while_the_block_runs_mlflows_database_too(here: Machine, copy: Prefix) -> None:
    with here.stage(), sqlite3.connect(here.run / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.commit()
        database.execute("INSERT INTO runs VALUES ('half-written')")  # not committed, and so in no copy
        deadline = time.monotonic() + 20
        while not (copy.listed().keys() >= {"study.json", "mlflow.db"}):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = copy.read("mlflow.db")
        assert found is not None
        snapshot = here.runs / "snapshot.db"
        snapshot.write_bytes(found.content)
        assert sqlite3.connect(snapshot).execute("SELECT count(*) FROM runs").fetchone() == (0,)
        assert not any(name.startswith("mlflow.db-") for name in copy.listed())


def test_an_outage_holds_nothing_up_and_what_is_unsaved_at_the_end_is_said(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(patched: pytest.MonkeyPatch) -> None:
        with here.stage():
            patched.setattr(Prefix, "write", down)
            time.sleep(0.5)  # several sendings fail

    with monkeypatch.context() as patched, pytest.raises(Outage, match=r"cannot be written \(no answer\)"):
        stage(patched)
    here.works()
    there.works()
    assert there.sees() == here.sees()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, BadInput])
def test_an_outage_never_hides_what_ended_the_block(
    here: Machine, ending: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stage() -> None:
        with here.stage():
            monkeypatch.setattr(Prefix, "write", down)
            raise ending("the block's own")

    with pytest.raises(ending, match="the block's own"):
        stage()
    assert "cannot be written (no answer)" in caplog.text


def test_what_s3_refuses_for_good_is_bad_input_and_what_it_does_not_answer_is_not(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(here.run)
    nowhere = here.settings.cluster.model_copy(update={"storage": "s3://no-such-bucket/raybd"})
    with pytest.raises(BadInput, match="cannot be read"):
        Machine(here.runs, here.settings.model_copy(update={"cluster": nowhere})).works()
    monkeypatch.setattr(Prefix, "listed", down)
    with pytest.raises(Outage, match="cannot be read"):
        here.works()
    assert {name: content for name, content in contents(here.run).items() if name != ".lock"} == before


def test_a_fetch_cut_short_leaves_no_run_folder_and_is_done_again(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        (here.run / f"file{number}").write_text("x")
    here.works()
    real, read = Prefix.read, []

    def cut(self: Prefix, name: str) -> object:
        read.append(name)
        if len(read) > 6:
            raise KeyboardInterrupt
        return real(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(Prefix, "read", cut)
        with pytest.raises(KeyboardInterrupt):
            there.works()
    assert not there.run.exists()
    (there.runs / f".{there.run.name}.fetch" / "stale").write_text("of an earlier fetch")
    there.works()
    assert there.sees() == here.sees()
    assert [path.name for path in there.runs.iterdir()] == [there.run.name]


def test_a_copy_that_reaches_outside_the_folder_is_refused(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.works()
    monkeypatch.setattr(Prefix, "listed", lambda self: {"../../../escaped": '"1"'})
    with pytest.raises(BadInput, match="outside the run"):
        there.works()
    assert not (there.run / "../../../escaped").exists()
    assert mark(copy)["ended"], "nobody need wait for one that fetched nothing"


def test_what_passes_is_not_copied(here: Machine, there: Machine) -> None:
    for name in (".x.draft", "search/ray/y", ".tracking.lock", "mlflow.db-journal"):
        (here.run / name).parent.mkdir(parents=True, exist_ok=True)
        (here.run / name).write_text("passing")
    here.works()
    there.works()
    assert "passing" not in {content.decode(errors="replace") for content in contents(there.run).values()}


def test_nothing_is_sent_twice_and_what_went_between_two_sessions_goes(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.works()
    copy.write("left-by-a-kill", b"sent, and deleted here before the deletion was sent")
    shutil.rmtree(here.run / "search" / "trials" / "3")
    (here.run / "study.json").write_text('{"new": 1}')
    real, written = Prefix.write, []

    def counted(self: Prefix, name: str, *arguments: str) -> str:
        written.append(name)
        return real(self, name, *arguments)  # type: ignore[arg-type]

    (here.run / "same").write_text("same")
    here.works()
    monkeypatch.setattr(Prefix, "write", counted)
    here.works()
    assert set(written) == {MARK}
    assert copy.listed().keys() == {MARK, "study.json", "same"}
    there.works()
    there.works()
    assert set(written) == {MARK}, "what was fetched is known to be there"
    copy.write("same", b"a bucket restored from an older backup")
    there.works()
    assert set(written) == {MARK, "same"}


def test_a_server_that_knows_no_conditions_will_do(here: Machine, there: Machine, server: S3) -> None:
    prefix = Prefix("s3://bucket/plain", server.endpoint)
    real, asked = prefix._client.put_object, []

    def plain(**arguments: object) -> object:
        asked.append(arguments)
        if arguments.keys() & {"IfMatch", "IfNoneMatch"}:
            error = {"ResponseMetadata": {"HTTPStatusCode": 501}, "Error": {"Code": "NotImplemented"}}
            raise prefix._client.exceptions.ClientError(error, "PutObject")
        return real(**arguments)

    prefix._client.put_object = plain
    version = prefix.write("file", b"1", None)
    assert prefix.write("file", b"2", version) != version
    assert len(asked) == 4
