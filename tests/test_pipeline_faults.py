"""The flow when something gives way: a promotion taken back, a server that is down, a process that is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raybd import pipeline, tracking
from raybd.defenses import Defense
from raybd.registry import BadInput
from raybd.search import local, trial
from raybd.search.records import Outcome, TrialRecord
from raybd.search.view import SearchView
from raybd.stages import execution
from tests.studies import card, study


def test_rollback_gives_the_alias_back_and_the_run_says_so(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    quick = {"search": {"trials": 1}, "references": [], "tracking": {"uri": uri}}
    first = study(tmp_path, name="first", **quick)
    second = study(tmp_path, name="second", data={"seed": 1}, **quick)
    for settings in (first, second):
        pipeline.run(settings, runs=tmp_path / "runs")
    assert card(tmp_path / "runs", "promote", "second")["version"] == "2"
    assert pipeline.rollback(second, runs=tmp_path / "runs").version == "1"
    pipeline.report(second, runs=tmp_path / "runs")
    noted = card(tmp_path / "runs", "promote", "second")
    assert (noted["promoted"], noted["rolled_back_to"]) == (False, "1")
    stages: list[str] = []
    pipeline.run(second, runs=tmp_path / "runs", on_stage=stages.append)
    assert stages == ["report"], "a run must not promote again what was rolled back"
    with pytest.raises(BadInput):
        pipeline.rollback(first, runs=tmp_path / "runs")


def test_with_the_server_down_the_job_is_done_and_only_the_promotion_waits(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    settings = study(tmp_path, search={"trials": 1}, references=[], tracking={"uri": uri})
    with pytest.raises(tracking.Unreachable):
        pipeline.run(settings, runs=tmp_path / "runs")
    run = tmp_path / "runs" / "tiny"
    assert (run / "report.html").is_file()
    assert not (run / "promote" / "card.json").exists()
    assert (run / "outbox.jsonl").stat().st_size > 0
    assert pipeline.sync(settings, runs=tmp_path / "runs").left > 0


def test_a_confirmation_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study(tmp_path, search={"trials": 1}, references=[])
    runs = tmp_path / "runs"
    pipeline.inject(settings, runs=runs)
    pipeline.search(settings, runs=runs)
    trained: list[int] = []

    def stopped_at_the_third(view: SearchView, defense: Defense, *, seed: int, weights: Path) -> Outcome:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(seed)
        return trial.run_trial(view, defense, seed=seed, weights=weights)

    monkeypatch.setattr(local, "run_trial", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pipeline.select(settings, runs=runs)
    before = trained.copy()
    trained[:] = []
    candidate = pipeline.select(settings, runs=runs)
    assert len(before) == 2
    assert len(trained) == 1, "two of three seeds were written down"
    assert candidate.card["seeds"] == before + trained
    assert not (runs / "tiny" / "select" / "confirm").exists()


def test_a_choice_from_an_unfinished_search_says_so(tmp_path: Path) -> None:
    settings = study(tmp_path, search={"trials": 2}, references=[])
    runs = tmp_path / "runs"
    pipeline.inject(settings, runs=runs)

    def stop(record: TrialRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.search(settings, runs=runs, on_trial=stop)
    candidate = pipeline.select(settings, runs=runs)
    assert candidate.card["why"].startswith("The search was not finished: 1 of its 2 trials")


@pytest.mark.slow
def test_a_killed_run_on_ray_in_a_folder_with_a_space_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """SIGKILL of `raybd run` in the middle of the search, then the same command again."""
    home = tmp_path / "my studies"
    settings = study(home, search={"trials": 6}, resources={"executor": "ray", "workers": 1}, references=[])
    (home / "study.yaml").write_text(yaml.safe_dump(settings.resolved(), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-c", "from raybd.cli import main; main()", "run", "study.yaml"]
    journal = home / "runs" / "tiny" / "search" / "journal.log"
    with subprocess.Popen(command, cwd=home, start_new_session=True) as victim:
        wait_for(lambda: journal.is_file() and journal.read_text(encoding="utf-8").count('"outcome"') >= 2)
        os.killpg(victim.pid, signal.SIGKILL)
    subprocess.run(command, cwd=home, check=True, timeout=240)
    records = card(home / "runs", "search")["records"]
    ended = [record for record in records if record["state"] != "failed"]
    assert len(ended) == 6
    assert len({json.dumps(record["setting"], sort_keys=True) for record in ended}) == 6

    undisturbed = study(tmp_path / "calm", search={"trials": 6}, references=[])
    pipeline.inject(undisturbed, runs=tmp_path / "calm" / "runs")
    pipeline.search(undisturbed, runs=tmp_path / "calm" / "runs")
    calm = card(tmp_path / "calm" / "runs", "search")["records"]
    figures = ("setting", "seed", "clean_accuracy", "attack_success_rate")
    assert [[r[f] for f in figures] for r in ended] == [[r[f] for f in figures] for r in calm]


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.2)


def test_a_search_that_never_began_is_no_result_and_begins_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ray refuses: nothing was tried, so no page says that nothing came of it, and no --resume is wanted."""

    def refused(*_: object, **__: object) -> None:
        raise BadInput("Ray has no room")

    settings, runs = study(tmp_path, search={"trials": 1}, references=[]), tmp_path / "runs"
    pipeline.inject(settings, runs=runs)
    with monkeypatch.context() as without:
        without.setattr(execution.LocalExecutor, "run", refused)
        with pytest.raises(BadInput, match="Ray has no room"):
            pipeline.search(settings, runs=runs)
    assert not (runs / "tiny" / "search" / "card.json").exists()
    pipeline.report(settings, runs=runs)
    told = json.loads((runs / "tiny" / "summary.json").read_text(encoding="utf-8"))
    assert told["verdict"]["word"] == "Not searched"
    assert len(pipeline.search(settings, runs=runs).records) == 1
