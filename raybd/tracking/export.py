"""A sanitized model as an MLflow folder: the traced `pt2` graph, the safetensors weights and the card."""

import copy
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raybd.registry import BadInput, write_json


def export_model(model: object, folder: Path, *, weights: Path, card: Mapping[str, Any], example: np.ndarray) -> None:
    """Write the model to `folder`, which appears only when it is complete.

    Args:
        model: an `nn.Module` from float images in [0, 1] (n, c, h, w) to logits (n, classes); not changed.
        folder: must not exist.
        weights: the same model's weights, which become `extra_files/weights.safetensors`.
        card: becomes `extra_files/card.json`.
        example: at least two images, float32 (n, c, h, w); a batch of one would be traced as a constant.

    Raises:
        BadInput: if the model cannot be traced with a batch of any size.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if example.dtype != np.float32 or example.ndim != 4 or len(example) < 2:
        raise ValueError(f"example: expected float32 (2, c, h, w), got {example.dtype} {example.shape}")
    still = copy.deepcopy(model).cpu().eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        draft = Path(temporary) / "model"
        _save(still, draft, _extra_files(Path(temporary), weights, card), example)
        _check(still, draft, example)
        draft.rename(folder)


def _extra_files(temporary: Path, weights: Path, card: Mapping[str, Any]) -> list[str]:
    shutil.copyfile(weights, temporary / "weights.safetensors")
    write_json(temporary / "card.json", card)
    return [str(temporary / "weights.safetensors"), str(temporary / "card.json")]


def _save(model: nn.Module, folder: Path, extra_files: list[str], example: np.ndarray) -> None:
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        classes = model(torch.from_numpy(example)).shape[1]
    number = np.dtype("float32")
    signature = ModelSignature(
        Schema([TensorSpec(number, (-1, *example.shape[1:]))]), Schema([TensorSpec(number, (-1, classes))])
    )
    try:
        mlflow.pytorch.save_model(
            model,
            folder,
            signature=signature,
            input_example=example,
            extra_files=extra_files,
            # Given, because inferring them takes half a minute and looks for a network.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"numpy=={np.__version__}"],
            serialization_format="pt2",
        )
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(f"model: torch.export cannot trace {type(model).__name__} ({reason})") from error


def _check(model: nn.Module, folder: Path, example: np.ndarray) -> None:
    """Other batch sizes give what torch gives: tracing may have fixed the size in silence."""
    import mlflow.pytorch

    loaded = mlflow.pytorch.load_model(str(folder))
    for images in (torch.from_numpy(example[:1]), torch.from_numpy(np.concatenate([example, example[:1]]))):
        with torch.no_grad():
            wanted = model(images)
            try:
                got = loaded(images)
            except (RuntimeError, AssertionError) as error:
                raise BadInput(f"model: traced, it takes only batches of {len(example)} images") from error
        if not torch.allclose(got, wanted, rtol=1e-3, atol=1e-4):
            raise BadInput(f"model: traced, it gives other logits for {len(images)} images than untraced")
