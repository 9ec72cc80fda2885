"""What machines a Ray cluster has for trials, and asking its autoscaler for more."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import ray
from ray.autoscaler.sdk import request_resources

MACHINE_SECONDS = 600.0
"""So long a search that was promised workers by an autoscaled cluster waits for the first machine."""


def machines() -> dict[str, dict[str, float]]:
    """Return what each machine of the cluster has that is alive, by its name in Ray."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def fits(has: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return how many trials a machine with these resources holds at once."""
    by_cpu = int(has.get("CPU", 0) // cpus)
    return min(by_cpu, int(has.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu


def room(cpus: int, gpus: float) -> int:
    """Return how many trials fit on the cluster at once, counted by machine because a trial cannot span two."""
    return sum(fits(has, cpus, gpus) for has in machines().values())


@contextlib.contextmanager
def requested(workers: int | None, cpus: int, gpus: float) -> Iterator[None]:
    """Ask the cluster's autoscaler for room for so many trials, and wait for the first; do nothing for None.

    A cluster without an autoscaler takes note and does nothing.
    """
    if workers is None:
        yield
        return
    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    request_resources(bundles=[bundle] * workers)
    try:
        deadline = time.monotonic() + MACHINE_SECONDS
        while room(cpus, gpus) < 1 and time.monotonic() < deadline:
            time.sleep(1)
        yield
    finally:
        request_resources(bundles=[])
