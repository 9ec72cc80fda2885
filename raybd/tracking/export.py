"""A sanitized model as an MLflow folder: the traced `pt2` graph, the safetensors weights and the card."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raybd.registry import write_json
from raybd.tracking.tracing import cannot_trace, check_batches, still_copy


def export_model(model: object, folder: Path, *, weights: Path, card: Mapping[str, Any], example: np.ndarray) -> None:
    """Write the model to `folder`, which appears only when it is complete.

    Args:
        model: an `nn.Module` from float images in [0, 1] (n, c, h, w) to logits (n, classes); not changed.
        folder: must not exist.
        weights: the same model's weights, which become `extra_files/weights.safetensors`.
        card: becomes `extra_files/card.json`.
        example: at least two images, float32 (n, c, h, w); a batch of one would be traced as a constant.

    Raises:
        Untraceable: if the model cannot be traced with a batch of any size.
    """
    import mlflow.pytorch

    still = still_copy(model, example)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        draft = Path(temporary) / "model"
        _save(still, draft, _extra_files(Path(temporary), weights, card), example)
        check_batches(still, mlflow.pytorch.load_model(str(draft)), example)
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
        raise cannot_trace(model, error) from error
