"""Successive halving on Ray Tune: the scheduler that stops a trial where the decider gives it up."""

from collections.abc import Mapping
from typing import Any, Protocol

from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class Judge(Protocol):
    """Says whether a trial is given up, see `RaySearcher.gives_up`; the rule itself is `search.rungs`."""

    def gives_up(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether to give up a trial for what this result says of it."""


class Halving(FIFOScheduler):
    """Runs trials in the order they come, and stops one at a rung where it is behind the others."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge = judge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Return STOP for a trial that is given up; its worker is free for the next one."""
        given_up = self._judge.gives_up(trial.trial_id, result)
        return str(TrialScheduler.STOP if given_up else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler for a restore that raybd never makes
