"""The table of ways: what each is, at which sizes it is measured, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.device.bench import Bench, Runner
from tests.benchmarks.device.compiled import compiled, compiled_graphs, fused_compiled
from tests.benchmarks.device.fused import fused, fused_channels_last
from tests.benchmarks.device.graphs import fused_graphs, graphs
from tests.benchmarks.device.plain import Plain
from tests.benchmarks.device.processes import processes, workers
from tests.benchmarks.device.streams import stream_graphs, streams


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to run many settings; `open` prepares it for so many settings at once."""

    about: str
    open: Callable[[Bench, int], Runner]
    sizes: tuple[int, ...] = (1,)
    needs: Literal["", "cuda", "compiler"] = ""


WAYS: dict[str, Way] = {  # in the order in which they are measured; what comes late may fall to a later run
    "plain": Way(about="one process, one setting after another, data resident: raybd's loop", open=Plain),
    "graphs": Way(about="CUDA graph of the whole step", open=graphs, needs="cuda"),
    "processes": Way(about="a fresh process for every setting", open=processes, sizes=(1, 4)),
    "workers": Way(about="processes that stay, as reused actors", open=workers, sizes=(2, 4, 8)),
    "fused": Way(about="settings fused by vmap", open=fused, sizes=(2, 4, 8, 16, 32, 64)),
    "fused_channels_last": Way(about="fused, channels last", open=fused_channels_last, sizes=(4, 16)),
    "fused_graphs": Way(about="fused, the step a CUDA graph", open=fused_graphs, sizes=(4, 16, 64), needs="cuda"),
    "streams": Way(about="CUDA streams, launched in turn", open=streams, sizes=(4,), needs="cuda"),
    "stream_graphs": Way(about="CUDA streams, a graph on each", open=stream_graphs, sizes=(2, 4, 8), needs="cuda"),
    "compiled": Way(about="torch.compile of the step", open=compiled, needs="compiler"),
    "compiled_graphs": Way(about="torch.compile, then a CUDA graph", open=compiled_graphs, needs="cuda"),
    "fused_compiled": Way(about="fused, then torch.compile", open=fused_compiled, sizes=(8,), needs="compiler"),
}
