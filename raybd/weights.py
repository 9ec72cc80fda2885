"""Weights in and out of files: safetensors or weights-only loading, never a pickle; digests of what was loaded."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from raybd.files import disk_fault
from raybd.models import Classifier
from raybd.registry import BadInput, nearest

State = dict[str, Tensor]

_CONVERT = (
    "raybd does not unpickle models, because a pickle can run any code. Where you trust the file, convert it once: "
    "model = torch.load(PATH, weights_only=False); "
    "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


def load_weights(path: Path, *, key: str | None = None) -> State:
    """Return the state dict in `path`, under `key` where it is nested.

    Raises:
        BadInput: if the file is missing, needs unpickling, or holds no state dict there.
    """
    if not path.is_file():
        raise BadInput(f"suspect.weights: no file {path.name} in {path.parent}")
    held = _read(path)
    if key is not None:
        if not isinstance(held, Mapping) or key not in held:
            known = [str(k) for k in held] if isinstance(held, Mapping) else []
            raise BadInput(f"suspect.state_dict_key: {path.name} has no '{key}'{nearest(key, known)}")
        held = held[key]
    if not isinstance(held, Mapping) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise BadInput(f"suspect.weights: {path.name} holds no state dict of tensors there{_nested_hint(held)}")
    return {str(name): tensor for name, tensor in held.items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except Exception as error:
            raise BadInput(f"suspect.weights: {path.name} is no safetensors file ({error})") from error
    if path.suffix not in (".pt", ".pth"):
        raise BadInput(f"suspect.weights: expected .safetensors, .pt or .pth, got {path.name}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError) as error:
        raise BadInput(f"suspect.weights: {path.name} holds more than tensors. {_CONVERT}") from error
    except Exception as error:
        raise BadInput(f"suspect.weights: {path.name} cannot be read ({error})") from error


def _nested_hint(held: Any) -> str:
    if not isinstance(held, Mapping):
        return f"; it holds {type(held).__name__}"
    nested = [str(k) for k, v in held.items() if isinstance(v, Mapping)]
    return f"; set suspect.state_dict_key to one of: {', '.join(nested)}" if nested else "; it has no tensors"


def load_into(model: Classifier, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the network of `model`.

    Raises:
        BadInput: for missing or unexpected names and for shapes that differ, naming the first of each.
    """
    own = model.body.state_dict()
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
    ]
    if any(faults):
        raise BadInput(f"suspect.weights: they do not fit the model: {'; '.join(filter(None, faults))}")
    model.body.load_state_dict(dict(state))


def _some(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""


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
