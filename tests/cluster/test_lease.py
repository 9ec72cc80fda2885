"""One machine writes the copy of a run folder: who comes later waits, is refused, or takes it over from the dead."""

import time
from pathlib import Path

import pytest

from raybd.registry import BadInput, Outage
from raybd.stages import mirror
from raybd.stages.bucket import Prefix, StorageDown
from raybd.stages.lease import MARK, Lease
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
