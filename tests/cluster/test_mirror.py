"""A run folder's copy on S3: whole, current, and no obstacle while S3 is down."""

import contextlib
import errno
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from raybd.artifacts import GateRefused, NothingFeasible
from raybd.registry import BadInput, Outage
from raybd.stages import sendable, sending
from raybd.stages.bucket import Prefix, StorageDown
from raybd.stages.lease import MARK
from tests.cluster.machines import Machine, copy, down, elsewhere, here, mark, quick, server, there
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
    assert not (there.runs / f".{there.run.name}.fetch" / "../../../escaped").exists()
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


@pytest.mark.parametrize("result", [GateRefused, NothingFeasible])
def test_a_result_that_could_not_be_saved_is_no_result_yet(
    here: Machine, result: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exit code would tell a scheduler that the machine, with the only report there is, may go."""

    def stage() -> None:
        with here.stage():
            monkeypatch.setattr(Prefix, "write", down)
            raise result("the result")

    with pytest.raises(Outage, match="cannot be written"):
        stage()
    assert "the result" in caplog.text


def test_what_s3_refuses_at_the_end_is_bad_input_at_once(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> str:
        raise StorageDown("AccessDenied", refused=True)

    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 60)
    start = time.monotonic()

    def stage() -> None:
        with here.stage():
            monkeypatch.setattr(Prefix, "write", denied)

    with pytest.raises(BadInput, match=r"cannot be written \(AccessDenied\)"):
        stage()
    assert time.monotonic() - start < 10


def test_an_interrupt_ends_in_time_also_while_one_file_is_long_on_its_way(
    here: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Prefix.write

    def slow(self: Prefix, name: str, *arguments: str) -> str:
        if name == "study.json":
            time.sleep(4)
        return real(self, name, *arguments)  # type: ignore[arg-type]

    def stage() -> None:
        with here.stage():
            time.sleep(0.5)
            raise KeyboardInterrupt

    monkeypatch.setattr(Prefix, "write", slow)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stage()
    assert time.monotonic() - start < 3
    assert "takes longer than 0 s" in caplog.text


def test_no_error_ends_the_sending_and_each_is_said_once(
    here: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(path: Path, *, ended: bool) -> bytes:
        raise RuntimeError("of any kind")

    with here.stage():
        with monkeypatch.context() as patched:
            patched.setattr(sendable, "content", fault)
            time.sleep(1.5)
        deadline = time.monotonic() + 5
        while "study.json" not in copy.listed():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert caplog.text.count("of any kind") == 1


def test_a_name_that_s3_cannot_have_keeps_no_other_from_it(here: Machine, there: Machine) -> None:
    Path(os.fsdecode(os.fsencode(here.run) + b"/\xff")).write_text("x")
    here.works()
    there.works()
    assert there.sees().keys() == {"study.json", "search/trials/3/weights.safetensors"}


def test_a_folder_that_cannot_be_read_loses_nothing_of_its_copy_and_the_end_says_so(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.works()
    held = copy.listed().keys()
    real = os.scandir

    def dying(path: object) -> object:
        if str(path).endswith("/search"):
            raise OSError(errno.EIO, "Input/output error", path)
        return real(path)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", dying)
        with pytest.raises(OSError, match="Input/output error"):
            here.works()
    assert copy.listed().keys() >= held
    here.works()
    there.works()
    assert there.sees() == here.sees()


def test_a_database_that_somebody_keeps_locked_to_the_end_is_said_to_be_unsaved(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendable, "LOCKED_SECONDS", 0.5)
    with contextlib.closing(sqlite3.connect(here.run / "mlflow.db")) as other:
        other.execute("CREATE TABLE runs (name TEXT)")
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Outage, match=r"another process keeps mlflow\.db locked"):
            here.works()
    here.works()
    there.works()
    assert there.sees() == here.sees()


def test_what_is_never_sent_is_never_fetched(here: Machine, there: Machine, copy: Prefix) -> None:
    here.works()
    others = (".lock", "search/ray/x", "mlflow.db-journal", ".mirror.sent")
    for name in others:
        copy.write(name, b"of others")
    with there.stage():
        assert "another raybd is at work" in elsewhere(there.works)
    assert b"of others" not in contents(there.run).values()
    assert there.sees() == here.sees()
    assert copy.listed().keys() >= set(others), "they are none of ours"


@pytest.mark.parametrize("name", ["study.json/below", "a//b", "./a"])
def test_a_copy_that_no_folder_can_hold_is_refused(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here.works()
    found = copy.listed()
    monkeypatch.setattr(Prefix, "listed", lambda self: {**found, name: '"1"'})
    with pytest.raises(BadInput, match="outside the run"):
        there.works()
    assert not there.run.exists()


def test_a_writing_whose_answer_was_lost_is_known_again(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = Prefix.write, []

    def lossy(self: Prefix, name: str, *arguments: str) -> str:
        version = real(self, name, *arguments)  # type: ignore[arg-type]
        if name == "study.json" and not lost:
            lost.append(name)
            raise StorageDown("no answer")
        return version

    monkeypatch.setattr(sending, "PATIENCE_SECONDS", 10)
    monkeypatch.setattr(Prefix, "write", lossy)
    here.works()
    there.works()
    assert lost
    assert there.sees() == here.sees()


def test_a_file_that_went_from_the_copy_is_sent_anew(here: Machine, copy: Prefix) -> None:
    with here.stage():
        deadline = time.monotonic() + 5
        while "study.json" not in copy.listed():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        copy.delete("study.json")
        (here.run / "study.json").write_text('{"new": 1}')
    assert "study.json" in copy.listed()


def test_an_environment_that_makes_no_client_is_bad_input(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("AWS_PROFILE", "no-such-profile")
        with pytest.raises(BadInput, match="no-such-profile"):
            here.works()
    with pytest.raises(BadInput, match="no client"):
        Prefix("s3://bucket/x", "no address")


@pytest.mark.parametrize("told", [{}, {"date": "noon"}])
def test_a_server_that_tells_no_date_tells_no_age(
    copy: Prefix, monkeypatch: pytest.MonkeyPatch, told: dict[str, str]
) -> None:
    copy.write("file", b"x")
    real = copy._client.get_object

    def dateless(**arguments: object) -> object:
        got = real(**arguments)
        got["ResponseMetadata"]["HTTPHeaders"] = told
        return got

    monkeypatch.setattr(copy._client, "get_object", dateless)
    found = copy.read("file")
    assert found is not None
    assert found.age == 0.0
