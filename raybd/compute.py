"""Where and how tensors are computed: device, precision, memory format, threads."""

import os
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from raybd.registry import BadInput


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how tensors are computed; decided once per study, the same on every worker."""

    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    threads: int = 1

    @classmethod
    def detect(cls, *, threads: int = 1, gpu: bool = False, precision: str = "auto") -> Self:
        """Return what this machine can do: bf16 on GPUs and on CPUs with AMX, else fp32.

        Raises:
            BadInput: if a GPU is asked for and none is there, or for an unknown precision.
        """
        if gpu and not torch.cuda.is_available():
            raise BadInput("resources.gpus_per_trial: a GPU is asked for, but torch sees none on this machine")
        if precision not in ("auto", "fp32", "bf16"):
            raise BadInput(f"resources.precision: expected auto, fp32 or bf16, got {precision!r}")
        fast = gpu or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - torch has no public question for it
        chosen: Literal["fp32", "bf16"] = "bf16" if precision == "bf16" or (precision == "auto" and fast) else "fp32"
        return cls(device="cuda" if gpu else "cpu", precision=chosen, threads=threads)

    def exact(self) -> Self:
        """Return this without autocast, in fp32: how a shipped model runs, and so how it must be judged."""
        return replace(self, precision="fp32")

    def apply(self) -> None:
        """Set torch's threads and determinism for this process; denormals (slow on CPUs) become zero."""
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)
        if self.device == "cuda":
            # cuBLAS needs the workspace setting before its first call to repeat itself to the bit.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.deterministic = True

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the memory format of this study."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    def inputs(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return images as floats in [0, 1] on the device."""
        x = images.to(self.device).float().div_(255)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")
