"""The driver is killed, over and over and wherever it is; and a second one comes to the same run folder."""

import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raybd import pipeline
from raybd.registry import BadInput
from raybd.search.records import TrialRecord
from raybd.stages.holding import keeping, take
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


def refused_in_a_thread(act: Callable[[], object]) -> str:
    """What a second driver is told: a thread holds nothing of what its starter holds, as another process does not."""
    told: list[str] = []

    def second() -> None:
        try:
            act()
        except BadInput as error:
            told.append(str(error))

    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    return "".join(told)


@pytest.mark.cluster
def test_a_second_driver_is_refused_at_every_stage_and_a_sync_is_not(home: Home) -> None:
    settings = home.settings(search={"trials": 1})
    refused: dict[str, dict[str, str]] = {}
    verbs: dict[str, Callable[[], object]] = {
        verb: lambda verb=verb: getattr(pipeline, verb)(settings, runs=home.runs)  # type: ignore[misc]
        for verb in ("run", "inject", "select", "assess", "promote", "rollback", "report")
    }
    verbs["search"] = lambda: pipeline.search(settings, runs=home.runs, resume=True)

    def others_try(word: str) -> None:
        refused[word] = {verb: refused_in_a_thread(act) for verb, act in verbs.items()}

    def others_sync(record: TrialRecord) -> None:
        assert refused_in_a_thread(lambda: pipeline.sync(settings, runs=home.runs)) == ""

    pipeline.run(settings, runs=home.runs, on_stage=others_try, on_trial=others_sync)
    assert set(refused) == {"search", "select", "assess", "promote", "report"}
    for word, told in refused.items():
        assert all("another raybd is at work" in text for text in told.values()), (word, told)
    settled(home.run)
    assert pipeline.report(settings, runs=home.runs).is_file(), "the first one let go of it"


@pytest.mark.cluster
def test_a_second_process_is_refused_with_exit_2_and_changes_nothing(home: Home) -> None:
    home.settings(search={"trials": 1})
    with keeping():
        take(home.run.absolute())
        before = contents(home.run)
        second = home.raybd("run")
        assert contents(home.run) == before
    assert second.returncode == 2
    assert "another raybd is at work in this run folder" in second.stderr
    assert home.raybd("search").returncode == 0
