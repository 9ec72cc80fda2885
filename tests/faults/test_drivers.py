"""The driver is killed, over and over and wherever it is; and a second one comes to the same run folder."""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raybd import pipeline
from raybd.stages import lease
from raybd.stages.holding import keeping, take
from raybd.stages.lease import MARK
from tests.cluster.machines import elsewhere
from tests.cluster.s3 import S3, serving
from tests.faults.checks import figures, front, settled
from tests.faults.homes import Home, kill, wait_for
from tests.studies import contents

KILLS = 20
TRIALS = 32


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_a_driver_killed_twenty_times_and_resumed_ends_as_if_undisturbed(home: Home, tmp_path: Path) -> None:
    calm = Home(Path(shutil.copytree(home.folder, tmp_path / "calm")))
    pipeline.run(calm.settings(search={"trials": TRIALS}), runs=calm.runs)
    home.settings(search={"trials": TRIALS})
    moments = random.Random(5)
    for number in range(KILLS):
        with home.begun("run") as driver:
            # A trial writes about a dozen lines: some kills come between two of them, some in its training.
            lines, pause = home.written() + moments.randrange(1, 16), moments.uniform(0, 0.2)
            assert wait_for(lambda lines=lines, driver=driver: home.written() >= lines or driver.poll() is not None)  # type: ignore[misc]
            with pytest.raises(subprocess.TimeoutExpired):
                driver.wait(pause)
            kill(driver)
        assert home.ended() < TRIALS, f"the search was over before kill {number + 1}"
    after_the_search = ("select/confirm/*/0/outcome.json", "select/card.json", "assess/card.json")
    for left in after_the_search:
        with home.begun("run") as driver:
            wait_for(lambda left=left, driver=driver: any(home.run.glob(left)) or driver.poll() is not None)  # type: ignore[misc]
    done = home.raybd("run")
    assert done.returncode == 0, done.stderr
    settled(home.run)
    assert figures(home.run) == figures(calm.run)
    assert front(home.run) == front(calm.run)
    assert home.card("select")["weights_digest"] == calm.card("select")["weights_digest"]
    assert (
        home.card("assess")["selected"]["attack_success_rate"] == calm.card("assess")["selected"]["attack_success_rate"]
    )


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3 server, and seconds for the minutes in which one machine waits for another to fall silent."""
    monkeypatch.setattr(lease, "EVERY_SECONDS", 0.5)
    monkeypatch.setattr(lease, "WAIT_SECONDS", 2.0)
    monkeypatch.setattr(lease, "ASK_SECONDS", 0.5)
    with serving(tmp_path) as server:
        yield server


def copied(s3: S3) -> dict[str, object]:
    return {"storage": "s3://bucket/raybd", "s3_endpoint": s3.endpoint}


@pytest.mark.cluster
@pytest.mark.parametrize("storage", [None, "s3"])
def test_a_second_driver_is_refused_at_every_stage(
    home: Home, storage: str | None, request: pytest.FixtureRequest
) -> None:
    cluster = {} if storage is None else copied(request.getfixturevalue(storage))
    settings = home.settings(search={"trials": 1}, cluster=cluster)
    refused: dict[str, dict[str, str]] = {}
    verbs: dict[str, Callable[[], object]] = {
        verb: lambda verb=verb: getattr(pipeline, verb)(settings, runs=home.runs)  # type: ignore[misc]
        for verb in ("run", "inject", "select", "assess", "promote", "rollback", "report", "sync")
    }
    verbs["search"] = lambda: pipeline.search(settings, runs=home.runs, resume=True)
    holders: set[bytes] = set()

    def others_try(word: str) -> None:
        refused[word] = {verb: elsewhere(act) for verb, act in verbs.items()}
        holders.update((home.run / MARK).read_bytes() for _ in cluster)

    pipeline.run(settings, runs=home.runs, on_stage=others_try)
    assert set(refused) == {"search", "select", "assess", "promote", "report"}
    for word, told in refused.items():
        assert all("another raybd is at work" in text for text in told.values()), (word, told)
    assert len(holders) == bool(cluster), "nobody else claimed the copy"
    settled(home.run)
    assert pipeline.report(settings, runs=home.runs).is_file(), "the first one let go of it"


@pytest.mark.cluster
def test_a_second_machine_on_one_copy_is_refused_and_then_goes_on(home: Home, s3: S3, tmp_path: Path) -> None:
    settings = home.settings(search={"trials": 1}, cluster=copied(s3))
    told: dict[str, str] = {}

    def other_machine(word: str) -> None:
        told[word] = elsewhere(lambda: pipeline.run(settings, runs=tmp_path / "other"))
        assert not (tmp_path / "other" / settings.name).exists()

    pipeline.search(settings, runs=home.runs, on_trial=lambda record: other_machine("search"))
    pipeline.run(settings, runs=home.runs, on_stage=other_machine)
    assert set(told) == {"search", "select", "assess", "promote", "report"}
    assert all("another machine is at work in s3://bucket/raybd/tiny" in text for text in told.values()), told
    settled(home.run)
    stages: list[str] = []
    pipeline.run(settings, runs=tmp_path / "other", on_stage=stages.append)
    assert stages == ["report"], "all else came from the copy"
    settled(tmp_path / "other" / settings.name)
    assert "as another machine left it" in elsewhere(lambda: pipeline.run(settings, runs=home.runs))


@pytest.mark.cluster
def test_a_second_process_is_refused_with_exit_2_and_changes_nothing(home: Home) -> None:
    settings = home.settings(search={"trials": 1})
    with keeping():
        take(settings, home.runs)
        before = contents(home.run)
        second = home.raybd("run")
        assert contents(home.run) == before
    assert second.returncode == 2
    assert "another raybd is at work in this run folder" in second.stderr
    assert home.raybd("search").returncode == 0
