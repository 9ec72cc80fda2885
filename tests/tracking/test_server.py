"""The same against a real `mlflow server`: outages at the start, in the middle and at the end of a study."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import safetensors.torch
import torch

from raybd.tracking import Tracker, Unreachable, fetch, sync
from tests.tracking.conftest import by_name, row, trial
from tests.tracking.test_outbox import check_everything_is_there_once, study


class Server:
    """An `mlflow server` of ours on loopback, which can be frozen: connections hang, as with a dead host."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Eight further processes for jobs that nobody here submits.
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # its own session: nobody else's processes
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory, migrated):
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(migrated, folder / "mlflow.db")
    running = Server(folder)
    running.start()
    yield running
    running.stop()


def test_a_study_over_http_with_its_promotion_and_the_way_back(server, run_dir, net, tmp_path):
    tracker = Tracker(server.uri, run_dir, "demo")
    address = study(tracker, net)
    assert tracker.reason == ""
    check_everything_is_there_once(tracker)
    first = tracker.promote(name="demo", alias="candidate", model_uri=address, tags={"raybd.n": 300})
    assert tracker.promote(name="demo", alias="candidate", model_uri=address, tags={"raybd.n": 300}) == first
    second = tracker.promote(name="demo", alias="candidate", model_uri=tracker.model("candidate", **net.given), tags={})
    assert (first.version, second.version, second.previous_version) == ("1", "2", "1")
    assert tracker.rollback(name="demo", alias="candidate").version == "1"
    path = fetch("models:/demo@candidate", tracking_uri=server.uri, folder=tmp_path / "got")
    held = safetensors.torch.load_file(path)
    assert all(torch.equal(held[name], value) for name, value in net.model.state_dict().items())
    assert list(Path().iterdir()) == []


@pytest.mark.slow  # the server starts again each time
@pytest.mark.parametrize("outage", ["start", "middle", "end"])
def test_an_outage_leaves_each_record_exactly_once(server, run_dir, net, outage):
    tracker = Tracker(server.uri, run_dir, outage)
    if outage == "start":
        server.stop()
    tracker.start(params={}, tags={}, artifacts={"study.yaml": "name: demo\n"})
    tracker.trial(trial(0))
    if outage == "middle":
        server.stop()
    tracker.trial(trial(1))
    tracker.model(1, **net.given)
    if outage == "end":
        server.stop()
    tracker.reference("fine_tuning", row())
    result = tracker.finish({"attack_success_rate": 0.05}, {}, {})
    assert result.left == tracker.waiting == {"start": 6, "middle": 4, "end": 2}[outage]
    with pytest.raises(Unreachable, match=r"the alias did not move|nothing was promoted"):
        tracker.promote(name=outage, alias="candidate", model_uri=tracker.model("candidate", **net.given), tags={})
    server.start()
    result = sync(run_dir, server.uri)
    assert (result.left, result.reason) == (0, "")
    assert (sync(run_dir, server.uri).sent, Tracker(server.uri, run_dir, outage).waiting) == (0, 0)
    found = by_name(tracker, outage)
    assert set(found) == {outage, "trial-0", "trial-1", "fine_tuning"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    address = tracker.model("candidate", **net.given)
    version = tracker.promote(name=outage, alias="candidate", model_uri=address, tags={})
    assert version.version == "1"


def test_a_server_that_hangs_costs_one_timeout_and_no_record(server, run_dir, monkeypatch):
    tracker = Tracker(server.uri, run_dir, "hanging")
    tracker.trial(trial(0))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for number in range(1, 6):
            tracker.trial(trial(number))
        assert time.monotonic() - started < 5
        assert tracker.waiting == 5
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)
    # What hung here was done there all the same: the server woke up and answered to nobody.
    assert sync(run_dir, server.uri).left == 0
    assert set(by_name(tracker, "hanging")) == {"hanging", *(f"trial-{n}" for n in range(6))}
