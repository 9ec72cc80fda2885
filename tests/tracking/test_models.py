"""Models in MLflow: any batch size, the same weights to the bit, and back out of the registry without a pickle."""

import copy
import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from raybd.registry import BadInput
from raybd.tracking import Unreachable, Untraceable, check_traceable, fetch
from raybd.tracking.client import connect
from tests.tracking.conftest import by_name, trial


@pytest.fixture
def address(tracker, net) -> str:
    tracker.trial(trial(3))
    return tracker.model(3, **net.given)


def test_a_logged_model_takes_any_batch_and_gives_what_torch_gives(tracker, address, net, monkeypatch):
    import mlflow.pytorch

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    loaded = mlflow.pytorch.load_model(address)
    still = net.model.eval()
    for n in (1, 2, 7):
        images = torch.rand(n, 3, 8, 8)
        torch.testing.assert_close(loaded(images), still(images))


def test_a_logged_model_says_what_it_takes_and_needs(tracker, address):
    import mlflow.artifacts
    from mlflow.models import Model

    where = connect(tracker.uri).get_logged_model(address.removeprefix("models:/"))
    known = Model.load(mlflow.artifacts.download_artifacts(where.artifact_location, tracking_uri=tracker.uri))
    assert known.signature.inputs.inputs[0].shape == (-1, 3, 8, 8)
    assert known.signature.outputs.inputs[0].shape == (-1, 5)
    assert known.saved_input_example_info is not None
    assert known.model_id == where.model_id
    lines = (Path(where.artifact_location.removeprefix("file://")) / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.split('+')[0]}" in lines
    assert {line.split("==")[0] for line in lines} == {"mlflow", "torch", "numpy"}


def test_the_model_belongs_to_its_trial_and_is_logged_once(tracker, address, net):
    started = time.monotonic()
    assert tracker.model(3, **net.given) == address
    assert time.monotonic() - started < 0.5  # not exported again
    run = by_name(tracker)["trial-3"]
    client = connect(tracker.uri)
    assert client.get_logged_model(address.removeprefix("models:/")).source_run_id == run.info.run_id
    assert [f"models:/{o.model_id}" for o in run.outputs.model_outputs] == [address]
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert not (tracker._run_dir / "mlmodels").exists()  # delivered, so not kept twice


def test_other_weights_are_another_model(tracker, address, net, tmp_path):
    state = {k: v + 1 if v.is_floating_point() else v for k, v in net.model.state_dict().items()}
    other = copy.deepcopy(net.model)
    other.load_state_dict(state)
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    assert tracker.model(3, **{**net.given, "model": other, "weights": tmp_path / "other.safetensors"}) != address


def test_the_callers_model_is_left_as_it_was(tracker, net):
    net.model.train()
    tracker.model("candidate", **net.given)
    assert net.model.training


def test_the_weights_come_back_out_of_the_registry_to_the_bit(tracker, address, net, tmp_path):
    version = tracker.promote(name="demo", alias="candidate", model_uri=address, tags={})
    for uri in ("models:/demo@candidate", f"models:/demo/{version.version}", address):
        path = fetch(uri, tracking_uri=tracker.uri, folder=tmp_path / uri.replace("/", "_"))
        assert path.name == "weights.safetensors"
        held = safetensors.torch.load_file(path)
        assert all(torch.equal(held[name], value) for name, value in net.model.state_dict().items())
    where = connect(tracker.uri).get_logged_model(address.removeprefix("models:/")).artifact_location
    card = Path(where.removeprefix("file://")) / "extra_files" / "card.json"
    assert json.loads(card.read_text()) == {"a": 1}


def test_a_registered_pickle_is_refused_and_never_opened(tracker, tmp_path):
    marker = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    client = connect(tracker.uri)
    folder = tmp_path / "model" / "data"
    folder.mkdir(parents=True)
    (folder / "model.pth").write_bytes(pickle.dumps(Trap()))
    client.create_registered_model("theirs")
    client.create_model_version("theirs", (tmp_path / "model").as_uri())
    with pytest.raises(BadInput, match=r"suspect\.weights: .* holds no extra_files/weights\.safetensors.*save_file"):
        fetch("models:/theirs/1", tracking_uri=tracker.uri, folder=tmp_path / "got")
    assert not marker.exists()
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("uri", ["models:/nothing@candidate", "models:/nothing/1", "models:/m-0123"])
def test_a_model_that_is_not_there_is_named(tracker, tmp_path, uri):
    with pytest.raises(BadInput, match=r"^suspect\.weights: no models:/"):
        fetch(uri, tracking_uri=tracker.uri, folder=tmp_path / "got")


def test_a_relative_registry_is_the_studys(tracker, address, tmp_path):
    tracker.promote(name="demo", alias="candidate", model_uri=address, tags={})
    got = fetch(
        "models:/demo@candidate", tracking_uri="sqlite:///mlflow.db", folder=tmp_path / "got", base=tracker._run_dir
    )
    assert got.is_file()


def test_an_alias_that_is_not_there_is_named(tracker, address, tmp_path):
    tracker.promote(name="demo", alias="candidate", model_uri=address, tags={})
    with pytest.raises(BadInput, match="no models:/demo@champion"):
        fetch("models:/demo@champion", tracking_uri=tracker.uri, folder=tmp_path / "got")


@pytest.mark.parametrize("uri", ["models:/", "models:/demo", "models:/demo/Production", "models:/demo@a/b"])
def test_an_address_that_names_no_version_is_refused(tracker, tmp_path, uri):
    with pytest.raises(BadInput, match="expected models:/NAME@ALIAS or models:/NAME/VERSION"):
        fetch(uri, tracking_uri=tracker.uri, folder=tmp_path / "got")


def test_a_registry_without_an_address_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"needs tracking\.uri"):
        fetch("models:/demo@candidate", tracking_uri=None, folder=tmp_path)


def test_a_registry_that_is_down_is_said(closed_port, tmp_path):
    with pytest.raises(Unreachable, match="does not answer"):
        fetch("models:/demo@candidate", tracking_uri=closed_port, folder=tmp_path)


class OneByOne(nn.Module):
    """Its graph depends on how many images there are."""

    def forward(self, images):
        return torch.cat([image.mean().reshape(1, 1) * torch.ones(1, 5) for image in images])


class OnPixels(nn.Module):
    """Its graph depends on what is in the images."""

    def forward(self, images):
        return images.flatten(1)[:, :5] * (2 if images.sum().item() > 3 else 1)


@pytest.mark.parametrize("model", [OneByOne(), OnPixels()])
def test_a_model_that_cannot_be_traced_is_said(tracker, net, model):
    assert issubclass(Untraceable, BadInput)
    with pytest.raises(Untraceable, match=r"^model: "):
        tracker.model("candidate", **{**net.given, "model": model})
    assert tracker.waiting == 0
    with pytest.raises(Untraceable, match=r"^model: "):
        check_traceable(model, net.given["example"])


def test_a_model_that_can_be_traced_passes_without_mlflow_and_is_left_as_it_was(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it takes seconds, here an error
    net.model.train()
    before = copy.deepcopy(net.model.state_dict())
    check_traceable(net.model, net.given["example"])
    assert net.model.training
    assert all(torch.equal(before[name], value) for name, value in net.model.state_dict().items())


def test_one_example_would_fix_the_batch_and_is_refused(tracker, net):
    with pytest.raises(ValueError, match="expected float32"):
        tracker.model("candidate", **{**net.given, "example": np.zeros((1, 3, 8, 8), np.float32)})
