"""A study in MLflow: one parent, one child per trial, nothing twice, nothing outside the run folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.registry import BadInput
from raybd.tracking import Tracker
from raybd.tracking.client import connect, explain
from tests.tracking.conftest import SEQUELA, by_name, row, runs, trial

START = {"params": {"name": "demo", "search": {"trials": 32}}, "tags": {"raybd.trigger_knowledge": "planted"}}


def start(tracker, **params):
    tracker.start(params={**START["params"], **params}, tags=START["tags"], artifacts={"study.yaml": "name: demo\n"})


def test_a_study_is_one_parent_run_with_a_child_per_trial(tracker, run_dir):
    start(tracker)
    for number in range(3):
        tracker.trial(trial(number))
    found = by_name(tracker)
    assert set(found) == {"demo", "trial-0", "trial-1", "trial-2"}
    parent = found["demo"]
    assert json.loads((run_dir / "tracking.json").read_text())["parent_run_id"] == parent.info.run_id
    assert parent.info.status == "RUNNING"
    assert parent.data.params == {"name": "demo", "search.trials": "32"}
    assert parent.data.tags["raybd.trigger_knowledge"] == "planted"
    assert all(found[f"trial-{n}"].data.tags["mlflow.parentRunId"] == parent.info.run_id for n in range(3))
    tracker.finish({"attack_success_rate": 0.05}, {"raybd.promoted": True}, {"summary.json": "{}"})
    parent = by_name(tracker)["demo"]
    assert (parent.info.status, parent.data.tags["raybd.promoted"]) == ("FINISHED", "true")
    assert parent.data.metrics["attack_success_rate"] == 0.05


def test_a_trial_holds_its_setting_rates_bounds_costs_and_state(tracker):
    tracker.trial(trial(4, state="failed", error="worker died", feasible=False, clean_accuracy=None))
    tracker.trial(trial(5))
    failed, good = by_name(tracker)["trial-4"], by_name(tracker)["trial-5"]
    assert good.data.params == {"lr_max1": "5.1", "epochs": "3", "seed": "17"}
    metrics = good.data.metrics
    assert (metrics["attack_success_rate"], metrics["attack_success_rate_high"]) == (0.05, 0.07)
    assert (metrics["accuracy_drop"], metrics["accuracy_drop_low"]) == (0.01, 0.0)
    assert (metrics["training_seconds"], metrics["images"]) == (1.5, 3200)
    assert good.data.tags["raybd.state"] == "complete"
    assert good.data.tags["raybd.feasible"] == "true"
    assert good.data.tags["raybd.collapsed"] == "false"
    assert good.info.end_time - good.info.start_time == 1750
    assert (failed.info.status, failed.data.tags["raybd.error"]) == ("FAILED", "worker died")
    assert "clean_accuracy" not in failed.data.metrics


def test_a_resumed_study_keeps_its_parent_and_repeats_no_trial(tracker, run_dir):
    start(tracker)
    tracker.trial(trial(0))
    tracker.finish({}, {}, {})
    again = Tracker(None, run_dir, "demo")
    start(again, search={"trials": 82})  # --trials +50: MLflow lets no parameter change
    again.trial(trial(0))
    again.trial(trial(1))
    found = by_name(again)
    assert set(found) == {"demo", "trial-0", "trial-1"}
    assert found["demo"].info.status == "RUNNING"
    assert found["demo"].data.params["search.trials"] == "32"
    assert found["demo"].data.tags["raybd.now.search.trials"] == "82"
    assert again.waiting == 0
    assert again.reason == ""


def test_a_search_begun_afresh_in_the_folder_is_not_taken_for_the_old_one(tracker):
    tracker.trial(trial(0))
    tracker.trial(trial(0, seed=18))
    assert [run.info.run_name for run in runs(tracker)] == ["demo", "trial-0", "trial-0"]


def test_rows_and_sequela_of_the_assessment_are_there_to_compare(tracker):
    tracker.reference("fine_tuning", row())
    tracker.reference("fine_tuning", row())
    tracker.sequela(SEQUELA)
    found = by_name(tracker)
    reference = found["fine_tuning"]
    assert reference.data.params == {"kind": "fine_tuning", "lr": "0.01"}
    assert reference.data.metrics["clean_accuracy_n"] == 300
    assert reference.data.metrics["spread.clean_accuracy.sd"] == 0.01
    client = connect(tracker.uri)
    assert [file.path for file in client.list_artifacts(reference.info.run_id)] == ["row.json"]
    assert found["demo"].data.metrics["membership.suspect_members.rise"] == -0.01
    curve = client.get_metric_history(found["demo"].info.run_id, "reinjection.suspect")
    assert sorted((point.step, point.value) for point in curve) == [(0, 0.9), (1, 0.95), (5, 0.99)]


def test_a_file_behind_a_link_to_another_disk_is_tracked(tracker, run_dir, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "weights").write_text("w")
    (run_dir / "select").symlink_to(tmp_path / "disk")
    assert tracker.finish({}, {}, {"weights": run_dir / "select" / "weights"}).left == 0
    parent = by_name(tracker)["demo"].info.run_id
    assert [file.path for file in connect(tracker.uri).list_artifacts(parent)] == ["weights"]


def test_artifacts_keep_their_given_names(tracker, run_dir):
    file = run_dir / "some.html"
    file.write_text("<p>")
    tracker.finish({}, {}, {"report.html": file, "environment/packages.txt": "torch==2\n"})
    parent = by_name(tracker)["demo"].info.run_id
    client = connect(tracker.uri)
    assert {f.path for f in client.list_artifacts(parent)} == {"report.html", "environment"}
    assert [f.path for f in client.list_artifacts(parent, "environment")] == ["environment/packages.txt"]


def test_long_and_many_values_fit_into_what_mlflow_takes(tracker):
    tracker.start(params={"long": "x" * 9000, **{f"p{i}": i for i in range(250)}}, tags={}, artifacts={})
    assert tracker.reason == ""
    params = by_name(tracker)["demo"].data.params
    assert len(params) == 251
    assert len(params["long"]) == 6000


def test_a_database_of_the_users_own_keeps_artifacts_beside_it(run_dir, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (run_dir / "mlflow.db").rename(shared / "team.db")
    tracker = Tracker(f"sqlite:///{shared / 'team.db'}", run_dir, "demo")
    start(tracker)
    artifacts = connect(tracker.uri).get_experiment_by_name("raybd/demo").artifact_location
    assert artifacts == (shared / "mlartifacts").as_uri()
    assert (shared / "mlartifacts").is_dir()


def test_nothing_is_written_outside_the_run_folder(tracker, net):
    start(tracker)
    tracker.trial(trial(0))
    address = tracker.model(0, **net.given)
    tracker.promote(name="demo", alias="candidate", model_uri=address, tags={})
    tracker.finish({}, {}, {})
    assert list(Path().iterdir()) == []  # neither ./mlruns nor ./mlflow.db nor ./mlartifacts


def test_a_tracker_that_has_nothing_to_say_leaves_the_folder_alone(run_dir):
    before = sorted(run_dir.iterdir())
    Tracker(None, run_dir, "demo")
    assert sorted(run_dir.iterdir()) == before


def test_a_deleted_experiment_is_an_error_at_the_start(tracker):
    start(tracker)
    client = connect(tracker.uri)
    client.delete_experiment(client.get_experiment_by_name("raybd/demo").experiment_id)
    with pytest.raises(BadInput, match="was deleted; restore it"):
        start(Tracker(None, tracker._run_dir, "demo"))
    assert not (tracker._run_dir / "outbox.jsonl").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", "a folder, where MLflow no longer keeps runs"),
        ("file:///tmp/mlruns", "a folder"),
        ("htp://host:5000", "did you mean 'http'"),
        ("sqlite://", "expected sqlite:///FILE"),
        ("http://user:secret@host:5000", "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_an_address_that_cannot_work_is_refused_with_its_key(run_dir, uri, message):
    with pytest.raises(BadInput, match=r"^tracking\.uri: ") as caught:
        Tracker(uri, run_dir, "demo")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_whose_driver_is_missing_is_an_error_at_the_start(run_dir):
    with pytest.raises(BadInput, match=r"^tracking\.uri: mssql\+pymssql.* needs a database driver"):
        start(Tracker("mssql+pymssql://host/runs", run_dir, "demo"))


def test_a_refused_host_name_says_what_to_do():
    error = RuntimeError("API request failed with error code 403. Response body: 'Invalid Host header - DNS'")
    assert "--allowed-hosts" in explain(error)


def test_importing_the_room_imports_neither_mlflow_nor_torch():
    code = "import sys, raybd.tracking; print([m for m in ('mlflow', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
