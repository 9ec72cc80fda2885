"""Small learned triggers for tests: their tensors are drawn, not trained."""

from pathlib import Path

import torch

from raybd.seeds import IsolatedRandom
from raybd.triggers import InputAware, Learned, Stamp
from raybd.triggers.generators import Generators


def stamp(channels: int = 3, size: int = 3, seed: int = 0) -> Stamp:
    stream = torch.Generator().manual_seed(seed)
    pattern = torch.randint(0, 256, (channels, size, size), generator=stream).to(torch.uint8)
    return Stamp.learnt({"pattern": pattern}, target_label=0)


def input_aware(channels: int = 3, width: int = 4, seed: int = 0) -> InputAware:
    with IsolatedRandom(seed):
        return InputAware.learnt(Generators(channels, width).state_dict(), target_label=0)


def written(folder: Path, trigger: Learned) -> Path:
    """The safetensors file of `trigger`, in `folder`."""
    path = folder / f"{trigger.kind}.safetensors"
    trigger.save(path)
    return path
