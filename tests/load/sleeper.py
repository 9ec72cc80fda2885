"""The worker of the load test: it sleeps instead of training, and must not know torch.

Ray hands a class to its workers by the name of its module, so this one imports nothing that imports torch.
"""

import json
import os
import platform
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

from ray import tune


class Sleeper(tune.Trainable):
    """Runs one trial after the other, each a sleep of so many seconds, and reports as raybd's own worker does."""

    def setup(self, config: dict[str, Any], key: str, outcome: Mapping[str, Any], seconds: float) -> None:
        """Take what a report is called, what an outcome looks like, and how long a trial sleeps."""
        self._key = key
        self._outcome = outcome
        self._seconds = seconds
        self._config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Sleep, and end the trial with figures that its seed gives."""
        time.sleep(self._seconds)
        chance = random.Random(self._config["seed"])
        figures = {"attack_success_rate": chance.random(), "clean_accuracy": chance.random()}
        worker = f"{platform.node()}:{os.getpid()}"
        reason = "torch was imported" if "torch" in sys.modules else ""
        told = {**self._outcome, "objectives": figures, "worker": worker, "reason": reason}
        return {"done": True, self._key: json.dumps(told)}
