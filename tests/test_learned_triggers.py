"""A learned trigger keeps its tensors wherever it goes, and takes none that are not its own."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from raybd.registry import BadInput, as_json, build, describe
from raybd.triggers import TRIGGERS, InputAware, Learned, Stamp
from tests.learned import input_aware, stamp, written

SHAPE = (3, 8, 8)
MAKERS: dict[str, Callable[..., Learned]] = {"stamp": stamp, "input_aware": input_aware}
IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from raybd.registry import build
from raybd.triggers import TRIGGERS
folder = Path(sys.argv[1])
images = load_file(folder / "images.safetensors")
done = {}
for kind in sys.argv[2:]:
    plain = {"kind": kind, "weights": str(folder / f"{kind}.safetensors"), "target_label": 0}
    done[kind] = build(TRIGGERS, plain, where="trigger").apply(images["images"])
save_file(done, folder / "done.safetensors")
"""


def images(n: int = 7, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def test_every_learned_kind_of_the_table_is_here() -> None:
    assert MAKERS.keys() == {kind for kind, cls in TRIGGERS.items() if issubclass(cls, Learned)}


def test_saved_and_loaded_in_a_new_process_they_make_the_same_images_to_the_bit(tmp_path: Path) -> None:
    safetensors.torch.save_file({"images": images()}, tmp_path / "images.safetensors")
    for make in MAKERS.values():
        written(tmp_path, make())
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path), *MAKERS], check=True)
    done = safetensors.torch.load_file(tmp_path / "done.safetensors")
    for kind, make in MAKERS.items():
        assert torch.equal(done[kind], make().apply(images()))


@pytest.mark.parametrize("kind", MAKERS)
class TestContract:
    def test_its_tensors_go_with_it_through_pickling_and_to_another_target(self, kind: str) -> None:
        trigger = MAKERS[kind]()
        done = trigger.apply(images())
        pickled = pickle.loads(pickle.dumps(trigger))
        assert torch.equal(pickled.apply(images()), done)
        assert torch.equal(trigger.aimed_at(2).apply(images()), done)
        assert trigger.aimed_at(2).target_label == 2

    def test_its_digest_is_that_of_its_tensors(self, kind: str) -> None:
        make = MAKERS[kind]
        assert make(seed=0).digest(SHAPE) == make(seed=0).digest(SHAPE) != make(seed=1).digest(SHAPE)
        assert make(seed=0) == make(seed=1), "equality is of fields, see the class"

    def test_its_tensors_are_no_field_of_yaml_or_cards(self, kind: str) -> None:
        trigger = MAKERS[kind]()
        assert "tensors" not in {**describe(trigger), **as_json(trigger)}
        assert len(repr(trigger)) < 200

    def test_without_tensors_it_is_refused(self, kind: str) -> None:
        trigger = build(TRIGGERS, {"kind": kind, "target_label": 0}, where="trigger")
        with pytest.raises(BadInput, match=rf"trigger.weights: missing; a {kind} trigger is learnt"):
            trigger.check(SHAPE, 2)

    def test_the_caller_cannot_change_it_afterwards(self, kind: str) -> None:
        tensors = {name: tensor.clone() for name, tensor in MAKERS[kind]().tensors.items()}
        trigger = TRIGGERS[kind].learnt(tensors, target_label=0)
        before = trigger.apply(images())
        for tensor in tensors.values():
            tensor.zero_()
        assert torch.equal(trigger.apply(images()), before)

    def test_another_kind_s_file_is_refused(self, kind: str, tmp_path: Path) -> None:
        other = next(make for name, make in MAKERS.items() if name != kind)
        plain = {"kind": kind, "target_label": 0, "weights": str(written(tmp_path, other()))}
        with pytest.raises(BadInput, match=r"trigger: trigger.weights: expected tensors"):
            build(TRIGGERS, plain, where="trigger")

    def test_a_file_that_cannot_be_read_is_refused(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "junk.safetensors").write_bytes(b"junk")
        for name, message in (("junk", "junk.safetensors is no safetensors file"), ("gone", "no file gone.safeten")):
            plain = {"kind": kind, "target_label": 0, "weights": str(tmp_path / f"{name}.safetensors")}
            with pytest.raises(BadInput, match=f"trigger.weights: {message}"):
                build(TRIGGERS, plain, where="trigger")

    def test_images_with_other_channels_are_refused(self, kind: str) -> None:
        with pytest.raises(BadInput, match=r"trigger.weights: the .* 3 channel\(s\), .* 1$"):
            MAKERS[kind](channels=3).check((1, 8, 8), 2)


def test_values_that_are_not_finite_are_refused() -> None:
    tensors = {**input_aware().tensors, "mask.last.bias": torch.tensor([torch.nan])}
    with pytest.raises(BadInput, match=r"mask.last.bias holds values that are not finite"):
        InputAware.learnt(tensors, target_label=0)


def test_a_stamp_of_floats_is_refused_and_so_is_one_that_sticks_out() -> None:
    with pytest.raises(BadInput, match=r"expected pattern as torch.uint8, got torch.float32"):
        Stamp.learnt({"pattern": torch.zeros(3, 2, 2)}, target_label=0)
    with pytest.raises(BadInput, match=r"a patch of 9 pixels at row -1 sticks out of images of 8 x 8"):
        stamp(size=9).check(SHAPE, 2)


def test_a_stamp_sits_where_a_patch_would_and_touches_nothing_else() -> None:
    trigger, clean = stamp(size=2), images()
    done = trigger.apply(clean)
    assert (done[:, :, 6:, 6:] == trigger.tensors["pattern"]).all()
    assert torch.equal(done[:, :, :6], clean[:, :, :6])
    assert torch.equal(done[:, :, 6:, :6], clean[:, :, 6:, :6])


def test_generators_that_do_not_go_together_are_refused() -> None:
    halves = {**input_aware(width=4).tensors, **_mask(input_aware(width=8))}
    with pytest.raises(BadInput, match=r"expected mask.enter.0.weight as torch.float32 of shape \(4, 3, 3, 3\), got"):
        InputAware.learnt(halves, target_label=0)
    doubles = {name: tensor.double() for name, tensor in input_aware().tensors.items()}
    with pytest.raises(BadInput, match=r"got torch.float64 of shape"):
        InputAware.learnt(doubles, target_label=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 13)])
def test_an_input_aware_trigger_is_an_image_s_own_whatever_its_company_and_place(shape: tuple[int, int, int]) -> None:
    trigger, clean = input_aware(channels=shape[0], width=8), images(104, shape)
    done = trigger.apply(clean)
    for place in (0, 57, 99, 100, 103):
        assert torch.equal(trigger.apply(clean[place : place + 1])[0], done[place])
    changes = done.int() - clean.int()
    assert not torch.equal(changes[0], changes[1])


def test_the_generators_are_those_of_the_weights_wherever_they_are_built() -> None:
    state = torch.get_rng_state()
    assert torch.equal(input_aware(seed=3).apply(images()), input_aware(seed=3).apply(images()))
    assert torch.equal(torch.get_rng_state(), state)


def _mask(trigger: InputAware) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in trigger.tensors.items() if name.startswith("mask.")}
