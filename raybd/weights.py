"""Weights in and out of files: safetensors or weights-only loading, never a pickle; digests of what was loaded."""

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from raybd.files import disk_fault
from raybd.models import Classifier
from raybd.registry import BadInput, is_file, nearest
from raybd.screening import screen_safetensors, screen_torch

State = dict[str, Tensor]

DTYPES = frozenset(
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "bool", "complex64", "complex128"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)
"""What numbers may be kept as. Others are packed or quantized, and torch can hardly compute with them."""

_CONVERT = (
    "raybd does not unpickle models, because a pickle can run any code. Where you trust the file, convert it once: "
    "held = torch.load(PATH, weights_only=False); then, if it held a model, "
    "safetensors.torch.save_file(held.state_dict(), 'weights.safetensors'), and if it held a dict around the tensors, "
    "the same with that entry, such as held['net']"
)

_PARALLEL = "module."
"""What torch's DataParallel puts before every name."""


def load_weights(path: Path, *, key: str | None = None) -> State:
    """Return the state dict in `path`, under `key` where it is nested: plain tensors on the CPU.

    Raises:
        BadInput: if the file is missing, needs unpickling, or holds no state dict there; if it asks for more memory
            than it has bytes, or a tensor is of a kind that no model is computed with.
    """
    if not is_file(path):
        raise BadInput(f"suspect.weights: no file {path.name} in {path.parent}")
    held = _read(path)
    if key is not None:
        if not isinstance(held, Mapping) or key not in held:
            known = [str(k) for k in held] if isinstance(held, Mapping) else []
            raise BadInput(f"suspect.state_dict_key: {path.name} has no '{key}'{nearest(key, known)}")
        held = held[key]
    if not isinstance(held, Mapping) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise BadInput(f"suspect.weights: {path.name} holds no state dict of tensors there{_nested_hint(held)}")
    try:
        return _plain(held, path.stat().st_size)
    except BadInput as error:
        raise BadInput(f"suspect.weights: {path.name}: {error}") from error


def read_safetensors(path: Path, where: str) -> State:
    """Return the tensors in the safetensors file `path`.

    Raises:
        BadInput: if it is none; the message starts with `where`.
    """
    try:
        screen_safetensors(path)
        held: State = safetensors.torch.load_file(path)
    except Exception as error:  # whatever safetensors says of a damaged file
        raise BadInput(f"{where}: {path.name} is no safetensors file ({error})") from error
    return held


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return read_safetensors(path, "suspect.weights")
    if path.suffix not in (".pt", ".pth"):
        raise BadInput(f"suspect.weights: expected .safetensors, .pt or .pth, got {path.name}")
    try:
        screen_torch(path)
        with warnings.catch_warnings():
            # Of a file that is refused next, in our own words; torch's ask the user to file an issue.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError) as error:
        raise BadInput(f"suspect.weights: {path.name} holds more than tensors. {_CONVERT}") from error
    except Exception as error:
        raise BadInput(f"suspect.weights: {path.name} cannot be read ({error})") from error


def _plain(held: Mapping[Any, Tensor], size: int) -> State:
    """The tensors without whatever else a file hung onto them, once they are what they claim to be."""
    state, stored = {}, {}
    for name, tensor in held.items():
        if not isinstance(name, str) or not name.isprintable():
            raise BadInput(f"expected names of tensors as text, got {name!r:.80}")
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise BadInput(f"{name:.80} is a {type(tensor).__name__}, expected a tensor")
        value = Tensor.detach(tensor)
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
            raise BadInput(f"{name:.80} is {value.layout}, {value.dtype} on {value.device}; expected plain numbers")
        storage = value.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        if value.numel() * value.element_size() > storage.nbytes():
            raise BadInput(f"{name:.80} claims {tuple(value.shape)}, more numbers than are stored")
        state[name] = value
    if sum(stored.values()) > size:
        raise BadInput(f"its tensors claim {sum(stored.values()):,} bytes, the file has {size:,}")
    return state


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights with which nothing can be computed.

    Raises:
        BadInput: if a number is infinite or none; the message starts with `where` and names the tensor.
    """
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise BadInput(f"{where}: {name:.80} holds values that are not finite (NaN or infinite)")


def _nested_hint(held: Any) -> str:
    if not isinstance(held, Mapping):
        return f"; it holds {type(held).__name__}"
    nested = [str(k)[:80] for k, v in held.items() if isinstance(v, Mapping)]
    return f"; set suspect.state_dict_key to one of: {', '.join(nested[:20])}" if nested else "; it has no tensors"


def load_into(model: Classifier, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the network of `model`, be it of that network or of torch's DataParallel around it.

    Raises:
        BadInput: for missing or unexpected names and for shapes that differ, naming the first of each.
    """
    own = model.body.state_dict()
    state = _unwrapped(state, own)
    faults = [
        _some("missing", [n for n in own if n not in state]),
        _some("unexpected", [n for n in state if n not in own]),
        _some(
            "of another shape",
            [
                f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
                for n in own
                if n in state and state[n].shape != own[n].shape
            ],
        ),
        _some(
            "of another type",
            [
                f"{n} {state[n].dtype} instead of {own[n].dtype}"
                for n in own
                if n in state and _kind(state[n]) != _kind(own[n])
            ],
        ),
    ]
    if any(faults):
        raise BadInput(f"suspect.weights: they do not fit the model: {'; '.join(filter(None, faults))}")
    try:
        model.body.load_state_dict(state)
    except Exception as error:  # a network's own hooks may refuse, and torch cannot copy every type
        raise BadInput(f"suspect.weights: they do not fit the model: {error}") from error


def _unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> State:
    """`state` under the network's names, where all of it has DataParallel's prefix and nothing of the network has."""
    parallel = all(n.startswith(_PARALLEL) for n in state) and not any(n.startswith(_PARALLEL) for n in own)
    return {n.removeprefix(_PARALLEL) if parallel else n: tensor for n, tensor in state.items()}


def _kind(tensor: Tensor) -> str:
    """What a tensor's numbers are for: one kind does not stand in for another, however exactly."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else "whole"


def _some(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(name[:120] for name in names[:3])}{more}" if names else ""


def state_of(model: Classifier) -> State:
    """Return a copy of the network's weights on the CPU, under the network's own names."""
    tensors = model.body.state_dict()
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write `state` to `path` as safetensors, so that a reader sees all of it or nothing.

    Raises:
        OSError: if the disk is full or cannot be written; an old file stays, and no draft.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        draft.touch()
        readers = draft.stat().st_mode  # as the umask has it: safetensors lets nobody but the owner read
        # Copies, because safetensors refuses tied and strided tensors, which checkpoints of others hold.
        safetensors.torch.save_file({n: t.detach().contiguous().clone() for n, t in state.items()}, draft)
        draft.chmod(readers)
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        fault = disk_fault(error)
        if fault is None or fault is error:
            raise
        raise fault from error


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes: equal digests mean equal weights."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
