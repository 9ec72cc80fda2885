"""A run folder may move, or be fetched to another machine: what it tracks goes with it, and nothing goes back."""

import shutil

import pytest
import safetensors.torch
import torch
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_repos

from raybd.tracking import Tracker, fetch, sync
from raybd.tracking.client import connect
from tests.tracking.conftest import by_name, trial
from tests.tracking.test_outbox import study


@pytest.fixture
def moved(run_dir, tmp_path):
    """Move the run folder; at its old place lies what nobody can make a folder of."""

    def move():
        elsewhere = tmp_path / "another" / "demo"
        elsewhere.parent.mkdir()
        shutil.move(run_dir, elsewhere)
        run_dir.write_text("")
        artifact_repos.clear()  # MLflow's own memory of this process, which another machine's has not
        return elsewhere

    return move


def test_a_folders_own_database_names_its_artifacts_where_they_lie_now(tracker, net, moved, tmp_path):
    address = study(tracker, net)
    tracker.promote(name="demo", alias="candidate", model_uri=address, tags={})
    there = Tracker(None, moved(), "demo")
    there.trial(trial(7))
    assert there.finish({}, {}, {"note.txt": "late"}).left == 0
    parent = by_name(there)["demo"].info
    assert parent.artifact_uri.startswith((tmp_path / "another" / "demo" / "mlartifacts").as_uri() + "/")
    held = {file.path for file in connect(there.uri).list_artifacts(parent.run_id)}
    assert held == {"study.yaml", "sequela.json", "note.txt"}
    again = there.promote(name="demo", alias="candidate", model_uri=there.model("candidate", **net.given), tags={})
    assert again.previous_version == "1"
    for version in ("1", "2"):
        path = fetch(f"models:/demo/{version}", tracking_uri=there.uri, folder=tmp_path / version)
        weights = safetensors.torch.load_file(path)
        assert all(torch.equal(weights[name], value) for name, value in net.model.state_dict().items())


def test_a_folder_whose_neighbour_has_a_longer_name_is_not_taken_for_it(tracker, net, moved, run_dir):
    study(tracker, net)
    other = f"{(run_dir / 'mlartifacts').as_uri()}-of-others/x"
    client = connect(tracker.uri)
    client.create_experiment("mine", artifact_location=other)
    there = Tracker(None, moved(), "demo")
    there.trial(trial(7))
    assert connect(there.uri).get_experiment_by_name("mine").artifact_location == other


def test_files_that_waited_are_sent_from_where_the_folder_is_now(run_dir, closed_port, moved):
    waiting = Tracker(closed_port, run_dir, "demo")
    (run_dir / "report.html").write_text("<p>")
    waiting.start(params={}, tags={}, artifacts={})
    assert waiting.finish({}, {}, {"report.html": run_dir / "report.html"}).left == 2
    there = moved()
    found = sync(there, f"sqlite:///{there / 'mlflow.db'}")
    assert (found.sent, found.left, found.reason) == (2, 0, "")
    tracker = Tracker(f"sqlite:///{there / 'mlflow.db'}", there, "demo")
    run = by_name(tracker)["demo"].info
    assert [file.path for file in connect(tracker.uri).list_artifacts(run.run_id)] == ["report.html"]


def test_a_file_from_outside_the_run_folder_is_not_tracked(tracker, tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(ValueError, match="secret"):
        tracker.finish({}, {}, {"report.html": tmp_path / "secret"})
