"""One machine writes the copy of a run folder: who comes later waits, is refused, or takes it over from the dead."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from raybd.registry import BadInput, Outage
from raybd.stages import holding, mirror, sendable
from raybd.stages.bucket import Changed, Found, Prefix, StorageDown
from raybd.stages.lease import MARK, Lease, Taken
from tests.cluster.machines import Machine, copy, down, elsewhere, here, mark, quick, server, there
from tests.studies import contents

__all__ = ["copy", "here", "quick", "server", "there"]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


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
    real = Lease.beat

    def stage() -> None:
        with here.stage():
            time.sleep(0.5)
            holder = mark(copy)["holder"]

            def cut_off(self: Lease, *, ended: bool = False) -> None:
                if self._holder == holder:
                    raise StorageDown("no answer")
                real(self, ended=ended)

            with monkeypatch.context() as patched:
                patched.setattr(Lease, "beat", cut_off)
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


def test_of_two_that_begin_one_new_study_the_second_is_refused_whenever_it_looks(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other claims, sends and ends just before this one's first mark is written."""
    there.run.mkdir(parents=True)
    (there.run / "theirs").write_text("theirs")
    real, ours = Lease._write, []

    def late(self: Lease, mark: object, *, ended: bool) -> None:
        if not ours:
            ours.append(self)
            assert elsewhere(there.works) == ""
        real(self, mark, ended=ended)  # type: ignore[arg-type]

    monkeypatch.setattr(Lease, "_write", late)
    with pytest.raises(BadInput, match="as another machine left it"):
        here.works()
    assert copy.listed().keys() == {MARK, "theirs"}


def test_one_that_waits_is_refused_once_the_other_has_sent_something(
    here: Machine, there: Machine, copy: Prefix, tmp_path: Path
) -> None:
    """Nothing was to be lost when it began to wait; all is when the wait is over."""
    other = Lease(copy)
    other.claim(tmp_path, may_take=lambda: True)
    told: list[str] = []
    waiting = threading.Thread(target=lambda: told.append(elsewhere(here.works)))
    waiting.start()
    time.sleep(0.5)
    copy.write("theirs", b"theirs")
    other.beat(ended=True)
    waiting.join()
    assert "as another machine left it" in told[0]
    assert copy.listed().keys() == {MARK, "theirs"}


def test_a_copy_whose_mark_is_lost_is_taken_by_no_older_folder(here: Machine, there: Machine, copy: Prefix) -> None:
    copy.write("study.json", b"newer")
    with pytest.raises(BadInput, match="as another machine left it"):
        here.works()
    found = copy.read("study.json")
    assert found is not None
    assert found.content == b"newer"
    there.works()
    assert (there.run / "study.json").read_bytes() == b"newer"


def test_a_mark_that_changes_between_a_look_and_a_beat_is_left_as_it_is(
    here: Machine, copy: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, real = Lease(copy), Lease._write
    lease.claim(tmp_path, may_take=lambda: True)

    def late(self: Lease, mark: object, *, ended: bool) -> None:
        copy.write(MARK, b'{"holder": "another"}')
        real(self, mark, ended=ended)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Lease, "_write", late)
        with pytest.raises(Changed):
            lease.beat()
    with pytest.raises(Taken):
        lease.beat()
    assert mark(copy)["holder"] == "another"


@pytest.mark.parametrize("new", [True, False])
def test_a_file_that_another_sent_while_this_one_was_read_is_not_written_over(
    here: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    if not new:
        here.works()
    (here.run / "study.json").write_text("ours")
    real = sendable.content

    def overtaken(path: Path, *, ended: bool) -> bytes | None:
        if path.name == "study.json":
            copy.write(MARK, b'{"holder": "another"}')
            copy.write("study.json", b"theirs")
        return real(path, ended=ended)

    monkeypatch.setattr(sendable, "content", overtaken)
    with pytest.raises(BadInput, match="has taken"):
        here.works()
    found = copy.read("study.json")
    assert found is not None
    assert found.content == b"theirs"


def test_the_mark_is_written_while_one_file_is_long_on_its_way_out_or_in(
    here: Machine, there: Machine, copy: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[object] = []

    def slow(real: Callable[..., object]) -> Callable[..., object]:
        def act(self: Prefix, name: str, *arguments: object) -> object:
            if name == "study.json":
                counts.append(mark(copy)["count"])
                time.sleep(1)
                counts.append(mark(copy)["count"])
            return real(self, name, *arguments)

        return act

    for act, machine in (("write", here), ("read", there)):
        with monkeypatch.context() as patched:
            patched.setattr(Prefix, act, slow(getattr(Prefix, act)))
            machine.works()
        before, after = counts
        counts.clear()
        assert after > before  # type: ignore[operator]


def test_a_mark_whose_age_s3_does_not_tell_is_free_once_it_has_not_changed_for_long(
    here: Machine, there: Machine, copy: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lease(copy).claim(tmp_path, may_take=lambda: True)
    copy.write("study.json", b"{}")
    real = Prefix.read

    def ageless(self: Prefix, name: str) -> Found | None:
        found = real(self, name)
        return None if found is None else replace(found, age=0.0)

    monkeypatch.setattr(Prefix, "read", ageless)
    start = time.monotonic()
    there.works()
    assert 2 < time.monotonic() - start < 5


def test_a_draft_that_gets_its_name_while_another_opens_its_lock_is_that_others(
    here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.works()
    real, opened = holding._locked, []

    def renamed(home: Path, folder: Path) -> object:
        if not opened:
            opened.append(home)
            home.replace(folder.parent / "gone")
        return real(home, folder)

    monkeypatch.setattr(holding, "_locked", renamed)
    there.works()
    assert there.sees() == here.sees()
