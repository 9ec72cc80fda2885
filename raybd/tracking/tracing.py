"""Whether torch.export can trace a model: what MLflow keeps is the traced graph, never a pickle."""

import copy
from typing import Any

import numpy as np

from raybd.registry import BadInput


class Untraceable(BadInput):
    """The model works, but has no graph that takes any number of images, so MLflow cannot hold it."""


def check_traceable(model: object, example: np.ndarray) -> None:
    """Trace a copy of the model on the CPU, as logging it would, and keep nothing; MLflow is not imported.

    Args:
        model: an `nn.Module` from float images in [0, 1] (n, c, h, w) to logits (n, classes); not changed.
        example: at least two images, float32 (n, c, h, w).

    Raises:
        Untraceable: if the model cannot be traced with a batch of any size.
    """
    import torch
    from torch.export import Dim

    still = still_copy(model, example)
    try:
        # As mlflow.pytorch.save_model does it.
        traced = torch.export.export(still, (torch.from_numpy(example),), dynamic_shapes=[{0: Dim.AUTO}])
    except Exception as error:
        raise cannot_trace(still, error) from error
    check_batches(still, traced.module(), example)


def still_copy(model: object, example: np.ndarray) -> Any:
    """Return a copy of the model on the CPU in evaluation mode, once model and example are what they must be."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if example.dtype != np.float32 or example.ndim != 4 or len(example) < 2:
        # A batch of one would be traced as a constant.
        raise ValueError(f"example: expected float32 (2, c, h, w), got {example.dtype} {example.shape}")
    return copy.deepcopy(model).cpu().eval()


def cannot_trace(model: object, error: Exception) -> Untraceable:
    """Return what tracing raised as the one error that callers tell from others."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Untraceable(f"model: torch.export cannot trace {type(model).__name__} ({reason})")


def check_batches(model: Any, traced: Any, example: np.ndarray) -> None:
    """Other batch sizes give what torch gives: tracing may have fixed the size in silence.

    Raises:
        Untraceable: if they do not.
    """
    import torch

    for images in (torch.from_numpy(example[:1]), torch.from_numpy(np.concatenate([example, example[:1]]))):
        with torch.no_grad():
            wanted = model(images)
            try:
                got = traced(images)
            except (RuntimeError, AssertionError) as error:
                raise Untraceable(f"model: traced, it takes only batches of {len(example)} images") from error
        if not torch.allclose(got, wanted, rtol=1e-3, atol=1e-4):
            raise Untraceable(f"model: traced, it gives other logits for {len(images)} images than untraced")
