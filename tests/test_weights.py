"""Weights come out of files without unpickling, fit the model or are refused by name, and keep their digest."""

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.weights import load_into, load_weights, save_weights, state_of, weights_digest


class Malice:
    """Unpickling it would create the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_a_plain_state_dict_is_read(tmp_path: Path, name: str) -> None:
    state = network().state_dict()
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    assert equal(load_weights(tmp_path / name), dict(state))


def test_a_nested_state_dict_needs_its_key_and_says_so(tmp_path: Path) -> None:
    state, path = network().state_dict(), tmp_path / "w.pth"
    torch.save({"net": state, "acc": 97.9, "epoch": 3}, path)
    assert equal(load_weights(path, key="net"), dict(state))
    with pytest.raises(BadInput, match=r"set suspect.state_dict_key to one of: net"):
        load_weights(path)
    with pytest.raises(BadInput, match=r"suspect.state_dict_key: w.pth has no 'nets'; did you mean 'net'\?"):
        load_weights(path, key="nets")
    with pytest.raises(BadInput, match="holds no state dict of tensors there; it holds float"):
        load_weights(path, key="acc")


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def bare_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [zipped, bare_pickle, legacy])
@pytest.mark.parametrize("nested", [False, True])
def test_a_checkpoint_that_needs_unpickling_is_refused_and_not_executed(
    tmp_path: Path, write: Callable[[object, Path], None], nested: bool
) -> None:
    mark, path = tmp_path / "owned", tmp_path / "w.pth"
    write({"net": network().state_dict(), "extra": Malice(mark)} if nested else Malice(mark), path)
    with pytest.raises(BadInput, match=r"w\.pth .*does not unpickle.*safetensors"):
        load_weights(path, key="net" if nested else None)
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):  # torch's complaint about a bare pickle comes too late
        torch.load(path, weights_only=False)  # the trap is real
    assert mark.exists()


def test_a_refused_pickle_of_a_late_protocol_is_refused_in_our_words_alone(tmp_path: Path) -> None:
    """torch warns of the protocol first, with a path of its own, and asks for an issue to be filed."""
    for protocol in (4, 5):
        (tmp_path / "w.pth").write_bytes(pickle.dumps(Malice(tmp_path / "owned"), protocol=protocol))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with pytest.raises(BadInput, match="does not unpickle"):
                load_weights(tmp_path / "w.pth")
        assert said == []


def test_a_whole_pickled_model_and_numpy_numbers_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    for name, content in (("model.pth", network()), ("numpy.pt", {"net": {}, "acc": np.float64(3)})):
        torch.save(content, tmp_path / name)
        with pytest.raises(
            BadInput, match=rf"{name} holds more than tensors.*save_file\(held.state_dict\(\).*held\['net'\]"
        ):
            load_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", b"\x80\x02."])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=f"suspect.weights: {name}"):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [], torch.zeros(3), {"a": 3}, {"a": torch.zeros(1), "b": 3}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BadInput, match="holds no state dict of tensors there"):
        load_weights(tmp_path / "w.pt")


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no file gone.pth in"):
        load_weights(tmp_path / "gone.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Malice(tmp_path / "owned")))
    with pytest.raises(BadInput, match=r"expected .safetensors, .pt or .pth, got w.pkl"):
        load_weights(tmp_path / "w.pkl")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_data_parallel_is_taken_for_the_network_inside() -> None:
    inside, model = network(), Classifier(network())
    load_into(model, nn.DataParallel(inside).state_dict())
    assert equal(state_of(model), dict(inside.state_dict()))


def test_a_network_with_a_part_called_module_keeps_its_names() -> None:
    model = Classifier(nn.DataParallel(network()))
    load_into(model, state := nn.DataParallel(network()).state_dict())
    assert equal(state_of(model), dict(state))


def test_names_of_which_some_have_the_prefix_are_refused() -> None:
    state = nn.DataParallel(network()).state_dict()
    state["1.bias"] = state.pop("module.1.bias")
    with pytest.raises(BadInput, match=r"unexpected: module\.1\.weight"):
        load_into(Classifier(network()), state)


def test_weights_that_do_not_fit_are_refused_with_what_is_wrong_and_change_nothing() -> None:
    model = Classifier(network())
    before, state = state_of(model), state_of(Classifier(network()))
    state["3.wieght"] = state.pop("3.weight")
    state["1.bias"] = torch.zeros(7)
    wanted = r"missing: 3.weight; unexpected: 3.wieght; of another shape: 1.bias \(7,\) instead of \(3,\)"
    with pytest.raises(BadInput, match=wanted):
        load_into(model, state)
    assert equal(state_of(model), before)


def test_many_faults_are_counted_not_listed() -> None:
    with pytest.raises(BadInput, match=r"missing: 1.weight, 1.bias, 2.weight and 6 more"):
        load_into(Classifier(network()), {})


def test_a_state_is_a_copy_both_ways() -> None:
    model = Classifier(network())
    state = state_of(model)
    with torch.no_grad():
        model.body[1].weight.zero_()
    assert state["1.weight"].abs().sum() > 0
    load_into(model, state)
    with torch.no_grad():
        model.body[1].weight.zero_()
    assert state["1.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    "state",
    [
        {"a": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), "n": torch.tensor(3)},
        {"a": torch.rand(3, 2).t(), "b": torch.rand(4)[::2]},
        {"a": (tied := torch.rand(2, 2)), "b": tied, "c": tied[0]},
        {"h": torch.rand(3).half(), "f": torch.rand(3).bfloat16(), "t": torch.tensor([True]), "e": torch.zeros(0)},
    ],
    ids=["channels_last", "strided", "tied", "types"],
)
def test_what_is_saved_is_loaded_with_the_same_digest(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "deep" / "weights.safetensors"
    save_weights(state, path)
    loaded = load_weights(path)
    assert equal(loaded, state)
    assert weights_digest(loaded) == weights_digest(state)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_who_may_read_the_weights_is_the_umasks_to_say(tmp_path: Path, umask: int, mode: int) -> None:
    (tmp_path / ".w.safetensors.draft").touch(0o600)  # left by a crash
    before = os.umask(umask)
    try:
        save_weights({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == mode
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_digest_sees_every_name_type_shape_and_byte() -> None:
    base = {"a": torch.zeros(2, 2), "b": torch.ones(1)}
    others = [
        {"a": torch.zeros(2, 2), "c": torch.ones(1)},
        {"a": torch.zeros(4), "b": torch.ones(1)},
        {"a": torch.zeros(2, 2), "b": torch.ones(1).int()},
        {"a": torch.zeros(2, 2), "b": torch.nextafter(torch.ones(1), torch.tensor(2.0))},
        {"a": torch.zeros(2, 2)},
    ]
    assert len({weights_digest(state) for state in [base, *others]}) == 6
    assert weights_digest(dict(reversed(base.items()))) == weights_digest(base)
    # Fixed for good: digests are compared with those of older run folders.
    assert weights_digest(base) == "525caeab9440f560a46ba2dc55d1774cac993c115c9d8c1c3f5af718f93a6d71"
