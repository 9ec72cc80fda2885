"""A study has one job at a time, found again by the study's name; its state is told in raybd's words."""

import logging
import os
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ray.job_submission
import requests
import studies
import yaml
from ray.exceptions import AuthenticationError
from rich.console import Console
from typer.testing import CliRunner, Result

from raybd import cluster
from raybd.cli import app
from raybd.progress import PlainSearch, Tally
from raybd.registry import BadInput
from raybd.settings import StudySettings, load_study
from tests.cluster.job_server import Server

ADDRESS = "http://head:8265"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("RAY_ADDRESS", "another:6379")
    fake = Server()
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", fake)
    return fake


@pytest.fixture
def study(tmp_path: Path) -> StudySettings:
    return written(tmp_path)


def written(folder: Path, **more: Any) -> StudySettings:
    on_ray = {"executor": "ray"}
    settings = studies.study(folder, resources=on_ray, **{"cluster": {"address": ADDRESS}} | more)
    (folder / "study.yaml").write_text(yaml.safe_dump(settings.resolved()), encoding="utf-8")
    return load_study(folder / "study.yaml")


def raybd(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_a_study_becomes_one_job_that_takes_nothing_from_here_but_its_files(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "planted")
    where = {"address": ADDRESS, "storage": "/nfs/my runs", "optuna": "postgresql://raybd@db/raybd"}
    done = cluster.submit(written(tmp_path, cluster=where, tracking={"uri": "http://tracking:5000"}))
    [job] = server.sent
    assert job["submission_id"] == done.name == "raybd-tiny"
    assert job["entrypoint"] == "exec raybd run study.yaml --runs '/nfs/my runs'"
    assert server.files == ["space.yaml", "study.yaml"]
    assert job["runtime_env"]["env_vars"] == {
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAYBD_SUBMITTED": str(tmp_path / "study.yaml"),
    }
    assert "planted" not in str(job)
    assert not any(key.startswith("entrypoint_") for key in job), "the driver holds no CPU: its trials do"
    assert done.secrets == ("PGPASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def test_each_job_of_a_study_on_s3_has_a_run_folder_of_its_own(server: Server, tmp_path: Path) -> None:
    """Ray gives a cached working directory, with what an earlier job left in it, to the next of the same files."""
    study = written(tmp_path, cluster={"address": ADDRESS, "storage": "s3://bucket/raybd"})
    cluster.submit(study)
    server.add("raybd-tiny", "STOPPED")
    done = cluster.submit(study)
    assert [job["entrypoint"] for job in server.sent] == [
        "exec raybd run study.yaml --runs runs/raybd-tiny",
        "exec raybd run study.yaml --runs runs/raybd-tiny-2",
    ]
    assert done.run == "runs/raybd-tiny-2/tiny"


def test_the_studys_address_counts_for_more_than_rays_variables_and_leaves_them(
    server: Server, study: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    cluster.submit(study)
    assert server.asked == ADDRESS
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://elsewhere:8265"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_job_that_runs_is_not_submitted_twice(server: Server, study: StudySettings, status: str) -> None:
    server.add("raybd-tiny", status)
    with pytest.raises(BadInput, match="a study has one job at a time; see `raybd status "):
        cluster.submit(study)
    assert server.sent == []


def test_one_that_ended_is_followed_by_the_next_under_a_name_never_used(server: Server, study: StudySettings) -> None:
    server.add("raybd-tiny", "STOPPED")
    server.add("raybd-tiny-2", "FAILED", 1, metadata={"raybd": "tiny-2"})  # of a study called tiny-2
    done = cluster.submit(study)
    assert done.name == "raybd-tiny-3"
    assert done.before is not None
    assert done.before.name == "raybd-tiny"
    assert cluster.status(study).name == "raybd-tiny-3"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        ("PENDING", None, "waiting"),
        ("RUNNING", None, "running"),
        ("SUCCEEDED", 0, "done"),
        ("FAILED", 3, "nothing feasible"),
        ("FAILED", 4, "refused"),
        ("FAILED", 1, "failed"),
        ("FAILED", 2, "failed"),
        ("FAILED", 127, "failed"),
        ("FAILED", None, "failed"),
        ("FAILED", 130, "stopped"),
        ("STOPPED", None, "stopped"),
    ],
)
def test_a_jobs_state_is_what_its_exit_code_means(
    server: Server, study: StudySettings, status: str, code: int | None, said: str
) -> None:
    server.add("raybd-tiny", status, code)
    found = cluster.status(study)
    assert (found.state, found.exit_code) == (said, code)
    assert found.over is (said not in ("waiting", "running"))


def test_status_tells_the_progress_that_the_log_of_a_search_tells(server: Server, study: StudySettings) -> None:
    screen = StringIO()
    tally = Tally()
    tally.begin(32, ())
    PlainSearch(Console(file=screen, width=400), tally)._print(f"trial 0: ... | {tally.line()}")
    server.add("raybd-tiny")
    server.log = "search\n" + screen.getvalue() + "\n".join(f"line {n}" for n in range(20))
    found = cluster.status(study)
    assert found.progress == tally.line()
    assert found.progress.startswith("0 of 32 trials done")
    assert found.log == tuple(f"line {n}" for n in range(10, 20))


def test_a_log_that_went_with_its_machine_hides_no_state(server: Server, study: StudySettings) -> None:
    def gone(name: str) -> str:
        raise RuntimeError("Request failed with status code 500: no agent")

    server.add("raybd-tiny", "FAILED", message="The job supervisor\n died")
    server.get_job_logs = gone  # type: ignore[method-assign]
    found = cluster.status(study)
    assert (found.state, found.message) == ("failed", "The job supervisor died")
    assert found.log == ("(the log cannot be read: Request failed with status code 500: no agent)",)


def test_stop_ends_the_job_that_runs_and_no_other(server: Server, study: StudySettings) -> None:
    server.add("raybd-tiny", "SUCCEEDED", 0)
    assert cluster.stop(study).state == "done"
    assert server.stopped == []
    server.add("someones-job")
    server.add("raybd-tiny-2", metadata={"raybd": "tiny"})
    assert cluster.stop(study).state == "stopped"
    assert server.stopped == ["raybd-tiny-2"]


def test_a_job_of_another_study_is_left_alone_though_it_bears_this_ones_name(server: Server, tmp_path: Path) -> None:
    study = written(tmp_path, name="tiny-2")
    server.add("raybd-tiny", "STOPPED", metadata={"raybd": "tiny"})
    server.add("raybd-tiny-2", metadata={"raybd": "tiny"})  # the second job of the study tiny
    for verb in (cluster.status, cluster.stop):
        with pytest.raises(BadInput, match="knows no job of the study 'tiny-2'"):
            verb(study)
    assert cluster.submit(study).name == "raybd-tiny-2-2"
    assert cluster.stop(study).name == "raybd-tiny-2-2"
    assert server.stopped == ["raybd-tiny-2-2"]


def test_a_job_that_does_not_end_is_said_to_run_and_stop_fails(
    server: Server, study: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("raybd-tiny")
    monkeypatch.setattr("raybd.cluster.jobs.STOP_PATIENCE", 0)
    monkeypatch.setattr(server, "stop_job", server.stopped.append)
    failed = raybd("stop", study.given)
    assert failed.exit_code == 1
    assert "raybd-tiny was told to end and is still running; see it with: raybd status" in failed.stderr
    server.jobs[0].status = "STOPPED"
    assert raybd("stop", study.given).exit_code == 0
    assert server.stopped == ["raybd-tiny"]


@pytest.mark.parametrize("verb", ["status", "stop"])
def test_a_study_without_a_job_is_told_how_to_begin_one(server: Server, study: StudySettings, verb: str) -> None:
    done = raybd(verb, study.given)
    assert done.exit_code == 2
    assert f"knows no job of the study 'tiny'; `raybd submit {study.given}` begins one" in done.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (AuthenticationError("Authentication failed: no\n\nmore"), f"cluster.address: {ADDRESS} refuses this token"),
        (RuntimeError("Request failed with status code 400: x\ny"), f"cluster.address: {ADDRESS} refused (Request"),
    ],
)
@pytest.mark.parametrize("verb", ["submit", "status", "stop"])
def test_a_cluster_that_refuses_is_one_line(
    server: Server, study: StudySettings, verb: str, fault: Exception, said: str
) -> None:
    server.fault = fault
    done = raybd(verb, study.given)
    assert done.exit_code == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("fault", [ConnectionError("Failed"), requests.exceptions.ReadTimeout("slow")])
@pytest.mark.parametrize("verb", ["submit", "status", "stop"])
def test_a_job_server_that_does_not_answer_may_do_so_later(
    server: Server, study: StudySettings, verb: str, fault: Exception
) -> None:
    server.fault = fault
    done = raybd(verb, study.given)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"cluster.address: no job server answers at {ADDRESS} ({fault}); does its head run, ")
    assert "with ray[default]?" in done.stderr
    assert f"When it answers again, go on with: raybd {verb} {study.given}\n" in done.stderr


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("verb", ["submit", "status", "stop"])
def test_a_job_server_that_is_unwell_may_be_well_later(
    server: Server, study: StudySettings, verb: str, status: int
) -> None:
    server.fault = RuntimeError(f"Request failed with status code {status}: No available agent, please try again.")
    done = raybd(verb, study.given)
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"cluster.address: {ADDRESS} cannot do it now (Request failed with status code {status}"
    )
    assert f"When it answers again, go on with: raybd {verb} {study.given}\n" in done.stderr


def test_a_token_that_is_nowhere_is_missed_before_anybody_is_asked(
    server: Server, study: StudySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is looked for where Ray looks: in the variable, else in the file of RAY_AUTH_TOKEN_PATH, else in the home."""
    server.add("raybd-tiny")
    for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", ""), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    home = tmp_path / ".ray" / "auth_token"
    done = raybd("status", study.given)
    assert (done.exit_code, server.asked) == (2, None)
    assert done.stderr == f"RAY_AUTH_MODE=token is set, but no RAY_AUTH_TOKEN, and {home} holds none\n"
    home.parent.mkdir()
    home.write_text("0" * 64)
    assert raybd("status", study.given).exit_code == 0
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    assert "RAY_AUTH_TOKEN_PATH names no file that holds one (" in raybd("status", study.given).stderr
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert raybd("status", study.given).exit_code == 0


def test_ray_does_not_tell_of_its_packages_while_it_is_asked(server: Server, study: StudySettings) -> None:
    names = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
    loggers = [logging.getLogger(name) for name in names]
    before, during = [each.level for each in loggers], []
    submit_job = server.submit_job

    def listen(**job: Any) -> str:
        during.extend(each.getEffectiveLevel() for each in loggers)
        return submit_job(**job)

    server.submit_job = listen  # type: ignore[method-assign]
    cluster.submit(study)
    assert during == [logging.WARNING, logging.WARNING]
    assert [each.level for each in loggers] == before


def test_a_job_submitted_again_names_the_one_before(server: Server, study: StudySettings) -> None:
    server.add("raybd-tiny", "STOPPED")
    said = raybd("submit", study.given).stdout
    assert "\nearlier job  raybd-tiny, stopped\n" in said
    assert "\nrun          runs/tiny\n" in said


@pytest.mark.parametrize(
    ("variable", "said"), [(None, "cluster.address: missing"), ("ray://head:10001", "cluster.address: got ray://")]
)
def test_an_address_from_the_environment_is_checked_as_the_studys(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, said: str
) -> None:
    if variable is None:
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", variable)
    with pytest.raises(BadInput) as refused:
        cluster.status(written(tmp_path, cluster={}))
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 4, 4),
        ("FAILED", 2, 2),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_follow_shows_the_log_and_ends_with_raybds_own_exit_code(
    server: Server, study: StudySettings, monkeypatch: pytest.MonkeyPatch, status: str, code: int | None, ends: int
) -> None:
    submit_job = server.submit_job

    def submit_and_end(**job: Any) -> str:
        name = submit_job(**job)
        server.jobs[-1].status, server.jobs[-1].driver_exit_code = status, code
        return name

    monkeypatch.setattr(server, "submit_job", submit_and_end)
    server.log = "search\ntrial [0]: feasible\n"
    done = raybd("submit", study.given, "--follow")
    assert done.exit_code == ends
    assert "search\ntrial [0]: feasible\nraybd-tiny: " in done.stdout


def test_a_log_whose_stream_broke_off_is_taken_up_where_it_was(
    server: Server, study: StudySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybd.cluster.jobs.time.sleep", lambda seconds: None)
    tries: list[int] = []

    async def broken(name: str) -> Any:
        tries.append(1)
        yield "first\nsec"
        if len(tries) == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "ond\n"
        server.jobs[-1].status = "SUCCEEDED"

    server.add("raybd-tiny")
    server.tail_job_logs = broken  # type: ignore[method-assign]
    said: list[str] = []
    assert cluster.follow(study, said.append).state == "done"
    assert "".join(said) == "first\nsecond\n"


def test_ctrl_c_leaves_the_job_alone(server: Server, study: StudySettings) -> None:
    async def interrupted(name: str) -> Any:
        with nullcontext():
            raise KeyboardInterrupt
        yield ""

    server.tail_job_logs = interrupted  # type: ignore[method-assign]
    done = raybd("submit", study.given, "--follow")
    assert done.exit_code == 130
    assert f"The job goes on; see it with: raybd status {study.given}" in done.stderr
    assert server.stopped == []


def test_submit_says_what_travels_and_what_the_cluster_has_to_have(server: Server, tmp_path: Path) -> None:
    named = written(tmp_path, tracking={"uri": "http://tracking:5000"}, data={"source": "/nfs/a.npz"})
    said = raybd("submit", named.given).stdout
    assert "travels   space.yaml, study.yaml\n" in said
    assert "is there  /nfs/a.npz: at this path on every machine" in said
    assert "MLFLOW_TRACKING_PASSWORD: from the cluster's own environment" in said
    assert "warning: cluster.storage is null" in said
