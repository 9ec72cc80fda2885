"""Any network becomes a classifier with a head and features, and one that cannot serve is refused before use."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from raybd.models import Architecture, Classifier
from raybd.registry import BadInput, as_json, revive
from raybd.weights import load_into, state_of

SHAPE = (3, 6, 6)
NETS = """
import torch
from torch import nn

def two_heads(classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 9), nn.ReLU(), nn.Linear(9, classes))

def seeded():
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.Dropout(0.5))

def fails():
    raise OSError("no such weights")

def number():
    return 3

class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer
    def forward(self, x):
        return self.answer(x)

def gives_a_tuple():
    return Odd(lambda x: (x, x))

def raises_key_error():
    return Odd(lambda x: {}["x"])

def gives_one_logit_for_all():
    return Odd(lambda x: x.flatten(1)[:, 0])

def wants_grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(4))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def own(folder: Path, function: str, **changes: object) -> Architecture:
    values = {"factory": f"nets:{function}", "folder": folder, "classes": 4, "shape": SHAPE}
    return Architecture(**{**values, **changes})  # type: ignore[arg-type]


def test_normalisation_happens_inside_and_leaves_no_trace_in_the_weights() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    plain, scaled = Classifier(body), Classifier(body, normalize={"mean": [0.5, 0.1], "std": [0.2, 2]})
    x = torch.rand(3, 2, 2, 2)
    wanted = (x - torch.tensor([0.5, 0.1]).view(1, 2, 1, 1)) / torch.tensor([0.2, 2.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(scaled(x), body(wanted))
    torch.testing.assert_close(plain(x), body(x))
    assert set(scaled.state_dict()) == set(plain.state_dict())


def test_the_head_is_the_last_linear_layer_or_the_one_that_is_named(folder: Path) -> None:
    assert own(folder, "two_heads").build(0).head_name == "3"
    named = own(folder, "two_heads", head="1").build(0)
    assert named.head.out_features == 9
    with pytest.raises(BadInput, match=r"suspect.head: no linear layer '0'; known: 1, 3"):
        own(folder, "two_heads", head="0").build(0)


def test_features_are_what_the_head_sees(folder: Path) -> None:
    model, x = own(folder, "two_heads").build(0), torch.rand(5, *SHAPE)
    features = model.features(x)
    assert features.shape == (5, 9)
    torch.testing.assert_close(model.head(features), model(x))
    assert not model.head._forward_pre_hooks


def test_a_network_without_linear_layer_works_until_its_head_is_asked_for() -> None:
    model = Classifier(nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten()))
    assert model(torch.rand(2, *SHAPE)).shape == (2, 4)
    with pytest.raises(BadInput, match=r"suspect.head"):
        _ = model.head


def test_building_repeats_by_seed_and_leaves_the_global_stream_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    first, second, third = (state_of(own(folder, "seeded").build(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not all(torch.equal(first[n], third[n]) for n in first)


def test_arguments_reach_the_factory(folder: Path) -> None:
    assert own(folder, "two_heads", arguments={"classes": 6}, classes=6).build(0).head.out_features == 6


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        ("number", {}, r"'nets:number' must return an nn\.Module, got int"),
        ("fails", {}, r"nets:fails failed on {} \(OSError: no such weights\)"),
        ("two_heads", {"arguments": {"width": 3}}, "suspect.arguments: nets:two_heads failed on {'width': 3}"),
        ("two_heads", {"shape": (3, 7, 7)}, r"cannot take images of 3 x 7 x 7 \(channels, height, width\)"),
        ("two_heads", {"classes": 5}, r"output of shape \(2, 4\), expected \(2, 5\): one logit per class"),
        ("gives_one_logit_for_all", {}, r"output of shape \(2,\), expected \(2, 4\)"),
        ("gives_a_tuple", {}, "the model gave a tuple, expected one tensor of logits"),
        ("raises_key_error", {}, "cannot take images of 3 x 6 x 6 .*KeyError"),
        ("wants_grey", {}, "cannot take images of 3 x 6 x 6"),
    ],
)
def test_a_network_that_cannot_serve_is_refused_when_built(
    folder: Path, function: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        own(folder, function, **changes).build(0)


def test_os_system_is_no_factory_and_is_not_run(folder: Path) -> None:
    mark = folder / "owned"
    with pytest.raises(BadInput, match=r"'os' is neither a file os.py in the study's folder"):
        own(folder, "", factory="os:system", arguments={"command": f"touch {mark}"}).build(0)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "smal_resnet"}, "unknown 'smal_resnet'; did you mean 'small_resnet'"),
        ({}, "expected either a name or a factory"),
        ({"name": "resnet18", "factory": "a:b"}, "expected either a name or a factory"),
        ({"name": "resnet18", "normalize": {"mean": [0.5], "std": [1, 1, 1]}}, "normalize.mean: expected 3 numbers"),
        ({"name": "resnet18", "normalize": {"mean": [0, 0, 0]}}, "normalize.std: expected 3 numbers"),
        ({"name": "resnet18", "normalize": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "std: expected numbers above 0"),
        (
            {"name": "resnet18", "normalize": {"mean": [0, 0, "x"], "std": [1, 1, 1]}},
            "normalize.mean: expected a number",
        ),
        ({"name": "resnet18", "normalize": {"mean": [0, 0, 0], "std": [1, math.nan, 1]}}, "normalize.std"),
    ],
)
def test_an_architecture_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Architecture(classes=4, shape=SHAPE, **changes)  # type: ignore[arg-type]


def test_arguments_a_named_network_does_not_know_are_refused() -> None:
    with pytest.raises(BadInput, match=r"small_resnet failed on {'widht': 3}"):
        Architecture(name="small_resnet", classes=4, shape=SHAPE, arguments={"widht": 3}).build(0)


def test_an_architecture_goes_to_json_and_back(folder: Path) -> None:
    for architecture in (
        own(folder, "two_heads", arguments={"classes": 4}, packages=("timm",), head="1"),
        Architecture(name="resnet18", classes=2, shape=SHAPE, normalize={"mean": [0.1] * 3, "std": [1.0] * 3}),
    ):
        assert revive(Architecture, as_json(architecture)) == architecture


def test_the_weights_raybd_writes_fit_the_users_own_bare_network(folder: Path) -> None:
    architecture = own(folder, "two_heads", normalize={"mean": [0.1] * 3, "std": [0.5] * 3})
    model = architecture.build(0)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(108, 9), nn.ReLU(), nn.Linear(9, 4))
    bare.load_state_dict(state_of(model), strict=True)
    x = torch.rand(2, *SHAPE)
    torch.testing.assert_close(bare((x - 0.1) / 0.5), model(x))
    again = architecture.build(1)
    load_into(again, bare.state_dict())
    torch.testing.assert_close(again(x), model(x))
