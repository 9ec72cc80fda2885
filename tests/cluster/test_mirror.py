"""A run folder's copy on S3: whole, current, of one writer at a time, and no obstacle while S3 is down."""

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raybd.registry import BadInput, Outage
from raybd.settings import StudySettings
from raybd.stages import lease, mirror
from raybd.stages.bucket import Prefix, StorageDown
from raybd.stages.holding import fetch, keeping, take
from raybd.stages.lease import MARK
from raybd.stages.sendable import SENT
from tests import studies
from tests.cluster.s3 import CREDENTIALS, S3
from tests.studies import contents

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    running = S3(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        running.start()
        running.make_bucket("bucket")
        yield running
        running.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for minutes; S3 tells ages in whole seconds."""
    monkeypatch.setattr(lease, "EVERY_SECONDS", 0.2)
    monkeypatch.setattr(lease, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(lease, "WAIT_SECONDS", 5.0)
    monkeypatch.setattr(lease, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(mirror, "BRIEFLY_SECONDS", 0.5)


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
    raise StorageDown("no answer")


def mark(copy: Prefix) -> dict[str, object]:
    found = copy.read(MARK)
    assert found is not None
    told: dict[str, object] = json.loads(found.content)
    return told


def test_the_copy_is_the_folder_also_where_the_block_was_left_by_an_error(here: Machine, there: Machine) -> None:
    def stage() -> None:
        with here.stage():
            (here.run / "study.json").write_text('{"name": 1}')
            shutil.rmtree(here.run / "search" / "trials" / "3")
            (here.run / "search" / "card.json").write_text("[]")
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


def test_a_folder_that_another_machine_has_gone_on_with_is_refused_and_left(here: Machine, there: Machine) -> None:
    here.works()
    with there.stage():
        (there.run / "study.json").write_text("theirs")
    before = contents(here.run)
    with pytest.raises(BadInput, match="as another machine left it"):
        here.works()
    assert contents(here.run) == before
    there.works()  # whereas it goes on


def test_a_claim_that_was_killed_half_way_is_still_ours(
    here: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.works()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Prefix, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                here.works()
    here.works()
    assert mark(copy)["ended"]


def test_sessions_that_could_not_send_leave_the_copy_ours(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them has a name of its own, of which S3 learns none."""
    here.works()
    for _ in range(3):
        with monkeypatch.context() as patched:
            patched.setattr(Prefix, "write", down)
            with pytest.raises(Outage):
                here.works()
    here.works()


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


def test_a_machine_that_is_alive_keeps_its_copy_and_the_other_changes_nothing(
    here: Machine, there: Machine, copy: Prefix, caplog: pytest.LogCaptureFixture
) -> None:
    with here.stage():
        time.sleep(0.5)
        start = time.monotonic()
        told = elsewhere(there.works)
        assert "another machine is at work in s3://bucket/raybd/" in told
        assert 4 < time.monotonic() - start < 15
        assert "waiting up to 5 s" in caplog.text
        assert not there.run.exists()
        (here.run / "card.json").write_text("written afterwards")
    assert mark(copy)["ended"]
    start = time.monotonic()
    there.works()
    assert time.monotonic() - start < 3, "one that has ended is not waited for"
    assert there.sees() == here.sees()


def test_a_machine_that_died_is_waited_for_and_its_copy_taken(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(mirror.Mirror, "settle", lambda *_: None)  # killed: it never says that it has ended
        with here.stage():
            time.sleep(1)
    assert not mark(copy)["ended"]
    start = time.monotonic()
    there.works()
    assert 1 < time.monotonic() - start < 5
    assert there.sees() == here.sees()


def test_a_machine_that_was_thought_dead_sends_nothing_more_and_says_so(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = mirror.Mirror.send

    def cut_off(self: mirror.Mirror, *, ended: bool) -> int:
        if self._folder == here.run:
            raise StorageDown("no answer")
        return real(self, ended=ended)

    def stage() -> None:
        with here.stage():
            time.sleep(0.5)
            with monkeypatch.context() as patched:
                patched.setattr(mirror.Mirror, "send", cut_off)
                assert elsewhere(there.works) == ""
            (here.run / "study.json").write_text("too late")
            time.sleep(1)

    with pytest.raises(BadInput, match=r"has taken s3://bucket/raybd/.* over"):
        stage()
    found = copy.read("study.json")
    assert found is not None
    assert found.content == b"{}"
    assert "has taken" in caplog.text
    assert elsewhere(there.works) == ""


def test_of_two_that_fetch_at_once_one_gets_the_copy(here: Machine, there: Machine, tmp_path: Path) -> None:
    here.works()
    third = Machine(tmp_path / "third", here.settings)
    with there.stage():
        assert "another machine is at work" in elsewhere(third.works)
    third.works()


def test_a_second_driver_here_sends_nothing(here: Machine, copy: Prefix) -> None:
    """It is refused by the lock before it says anything to S3."""
    with here.stage():
        before = (here.run / MARK).read_bytes(), mark(copy)["holder"]
        assert "another raybd is at work in this run folder" in elsewhere(here.works)
        assert ((here.run / MARK).read_bytes(), mark(copy)["holder"]) == before


def test_two_drivers_that_fetch_into_one_folder_are_told_apart(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.works()
    real, told = mirror.Mirror.fetch, []

    def slow(self: mirror.Mirror, draft: Path) -> None:
        told.append(elsewhere(there.works))
        real(self, draft)

    with monkeypatch.context() as patched:
        patched.setattr(mirror.Mirror, "fetch", slow)
        there.works()
    assert "another raybd is at work in this run folder" in told[0]
    assert there.sees() == here.sees()


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
