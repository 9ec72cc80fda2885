"""A server that knows no such user or password is bad input at the start, and not taken for one that is down."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raybd.registry import BadInput
from raybd.tracking import Tracker
from tests.tracking.conftest import trial


class Doorkeeper(BaseHTTPRequestHandler):
    """What MLflow's basic authentication answers to a stranger."""

    def do_GET(self):
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def guarded():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Doorkeeper)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def tracker(guarded, run_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted-secret")
    return Tracker(guarded, run_dir, "demo")


def test_a_wrong_password_is_told_before_anything_is_done(tracker, guarded):
    with pytest.raises(BadInput, match=r"does not let us in.*MLFLOW_TRACKING_PASSWORD") as told:
        tracker.start(params={}, tags={}, artifacts={})
    assert guarded in str(told.value)
    assert "planted-secret" not in str(told.value)
    assert tracker.waiting == 0


def test_a_password_that_is_wrong_in_the_middle_loses_no_record_and_promotes_nothing(tracker):
    tracker.trial(trial(0))
    assert tracker.waiting == 1
    with pytest.raises(BadInput, match="does not let us in"):
        tracker.promote(name="demo", alias="candidate", model_uri=None, tags={})
