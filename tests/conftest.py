"""What holds for every test: one thread, no telemetry, the same random examples on every run."""

import os

import pytest
import torch
from hypothesis import settings

from tests.cluster.postgres import postgres  # noqa: F401 - a fixture for all tests

# Inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

torch.set_num_threads(1)

settings.register_profile("raybd", derandomize=True, deadline=None)
settings.load_profile("raybd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
