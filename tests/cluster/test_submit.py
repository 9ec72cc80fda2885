"""A study is really submitted to a Ray cluster with token authentication: looked at, stopped, submitted again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import studies
import yaml

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4
PLANTED = {
    "PGPASSWORD": "planted-pg-4711",
    "AWS_ACCESS_KEY_ID": "planted-aws-id-4712",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-4713",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-4714",
}
"""In the environment of whoever submits, and nowhere else."""

NETS = '''"""The user's network; it needs a module of the user's own, and trains slowly while a file is there."""

import time
from pathlib import Path

from my_blocks import block
from torch import nn


class SmallVGG(nn.Module):
    def __init__(self, num_classes, brake):
        super().__init__()
        self.brake = brake
        self.features = nn.Sequential(block(1, 16), block(16, 32), nn.Flatten())
        self.classify = nn.Linear(32 * 2 * 2, num_classes)

    def forward(self, x):
        if self.training and Path(self.brake).exists():
            time.sleep(1)
        return self.classify(self.features(x))
'''
BLOCKS = '''"""Half of the user's network."""

from torch import nn


def block(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
'''


@dataclass(frozen=True, kw_only=True)
class Head:
    address: str
    folder: Path

    def raybd(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user of this cluster does, whose environment holds secrets."""
        program = [sys.executable, "-c", "from raybd.cli import main; main()", *words]
        given = {**clean(), **PLANTED, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **environment}
        return subprocess.run(program, check=False, env=given, capture_output=True, text=True, timeout=300)

    def asked(self, path: str) -> str:
        request = urllib.request.Request(f"{self.address}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        return urllib.request.urlopen(request, timeout=30).read().decode()


def clean() -> dict[str, str]:
    """This environment without what is of a cluster, and with this checkout first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name not in PLANTED}
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PYTHONPATH": str(ROOT), "PATH": binaries, "RAY_USAGE_STATS_ENABLED": "0"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"}), timeout=5)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rb", dir="/tmp"))  # short: Ray's sockets lie in it
    gcs, dashboard, agent, client = free_ports(4)
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", "--num-cpus=2", f"--temp-dir={folder / 'ray'}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        f"--object-store-memory={80 * 2**20}",
    ]
    environment = {**clean(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with (folder / "head.log").open("w") as log:
        ray = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address, deadline = f"http://127.0.0.1:{dashboard}", time.monotonic() + 90
        while not answers(f"{address}/api/version"):
            assert ray.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, "Ray's job server does not come up"
            time.sleep(0.5)
        yield Head(address=address, folder=folder)
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(ray.pid, sent)
                ray.wait(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def study(head: Head) -> Path:
    """A study with the user's own factory, whose run folder is on `storage`."""
    folder = head.folder / "study"
    folder.mkdir()
    (folder / "my_nets.py").write_text(NETS)
    (folder / "my_blocks.py").write_text(BLOCKS)
    (folder / "space.yaml").write_text(yaml.safe_dump(studies.SPACE))
    (folder / "notes.txt").write_text("not named by the study")
    whole = {
        **studies.STUDY,
        "name": "sent",
        "model": {"factory": "my_nets:SmallVGG", "arguments": {"num_classes": 10, "brake": str(head.folder / "brake")}},
        "search": {**studies.STUDY["search"], "trials": 10},
        "references": [],
        "resources": {"workers": 2},
        "cluster": {"address": head.address, "storage": str(head.folder / "storage")},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(whole))
    return folder / "study.yaml"


def wait_for_trials(head: Head, count: int) -> None:
    """Until so many trials have ended, by the job's log."""
    log, deadline = head.folder / "ray/session_latest/logs/job-driver-raybd-sent.log", time.monotonic() + 300
    while time.monotonic() < deadline:
        said = log.read_text() if log.is_file() else ""
        if f"| {count} of 10 trials done" in said:
            return
        time.sleep(0.2)
    raise AssertionError(said)


def test_a_wrong_token_is_refused_in_one_line(head: Head, study: Path) -> None:
    for environment in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = head.raybd("submit", str(study), **environment)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"cluster.address: {head.address} refuses this token, or wants one")
        assert refused.stderr.count("\n") == 1


def test_a_study_that_was_never_submitted_has_no_job(head: Head, study: Path) -> None:
    for verb in ("status", "stop"):
        asked = head.raybd(verb, str(study))
        assert asked.returncode == 2
        assert "knows no job of the study 'sent'" in asked.stderr


def test_a_study_runs_is_stopped_in_order_and_goes_on_when_it_is_submitted_again(head: Head, study: Path) -> None:
    sent = head.raybd("submit", str(study))
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr == "", "Ray's own lines are about packages, and nothing of them is asked for"
    assert "travels  my_blocks.py, my_nets.py, space.yaml, study.yaml\n" in sent.stdout
    assert f"run      {head.folder / 'storage' / 'sent'}\n" in sent.stdout
    wait_for_trials(head, 2)
    (head.folder / "brake").touch()  # a command takes longer than a trial
    asked = head.raybd("status", str(study)).stdout
    assert "job      raybd-sent\nstate    running\n" in asked
    assert re.search(r"^search   \d+ of 10 trials done", asked, re.MULTILINE), asked

    twice = head.raybd("submit", str(study))
    assert twice.returncode == 2
    assert "raybd-sent is running: a study has one job at a time" in twice.stderr

    start = time.monotonic()
    stopped = head.raybd("stop", str(study))
    assert stopped.returncode == 0, stopped.stderr
    assert "state    stopped" in stopped.stdout
    said = f"Interrupted. What was finished is kept; go on with: raybd submit {study}"
    assert said in stopped.stdout, "raybd ended by itself, was not killed, and named the study as its user does"
    assert time.monotonic() - start < 60
    run = head.folder / "storage" / "sent"
    kept = json.loads((run / "search" / "card.json").read_text())["records"]
    assert 2 <= sum(r["state"] != "failed" for r in kept) < 10, "stopped in the midst of its search"
    assert {r["error"] for r in kept if r["state"] == "failed"} == {"interrupted"}, "those under way were told"
    assert json.loads(head.asked("/api/version"))["ray_version"], "the cluster itself goes on"

    (head.folder / "brake").unlink()
    again = head.raybd("submit", str(study), "--follow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "earlier job  raybd-sent, stopped\n" in again.stdout
    assert "resuming: " in again.stdout
    assert "raybd-sent-2: done" in again.stdout
    records = json.loads((run / "search" / "card.json").read_text())["records"]
    assert [r for r in records if r["number"] in {k["number"] for k in kept}] == kept
    assert sum(r["state"] != "failed" for r in records) == 10
    assert (run / "report.html").is_file()

    last = head.raybd("status", str(study)).stdout
    assert "job      raybd-sent-2\nstate    done (exit code 0)" in last
    assert head.raybd("stop", str(study)).stdout == last, "a job that has ended is left as it is"


def test_nothing_secret_of_the_submitters_environment_reaches_the_cluster(head: Head, study: Path) -> None:
    """After the study above: the jobs as the server tells them, their logs, all that Ray and the run have written."""
    told = head.asked("/api/jobs/")
    assert "raybd-sent-2" in told
    secrets = [*PLANTED.values(), TOKEN]
    assert [secret for secret in secrets if secret in told] == []
    files = [path for path in head.folder.rglob("*") if path.is_file()]
    assert any(path.name == "job-driver-raybd-sent-2.log" for path in files)
    found = {(path.name, secret) for path in files for secret in secrets if secret.encode() in path.read_bytes()}
    assert found == set()
