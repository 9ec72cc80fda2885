"""Successive halving on Ray Tune: the scheduler that stops a trial where the decider gives it up.

It also says which trial a free worker gets, so that workers under way to others are not thrown away.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class Judge(Protocol):
    """Says whether a trial is given up, see `RaySearcher.gives_up`; the rule itself is `search.rungs`."""

    def gives_up(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether to give up a trial for what this result says of it."""


class Halving(FIFOScheduler):
    """Gives a free worker to the trial that came last, and stops one at a rung where it is behind the others."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._judge = judge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Return STOP for a trial that is given up; its worker is free for the next one."""
        given_up = self._judge.gives_up(trial.trial_id, result)
        return str(TrialScheduler.STOP if given_up else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the trial that has waited least, or None if none waits.

        It was asked for when a worker became free, and takes that one. Those before it have workers of their own
        that are starting. If the eldest took the free one, Tune would kill the one that is starting for it and start
        another for the newcomer: while trials end faster than workers start, the machines never fill.
        """
        waiting = (trial for trial in reversed(tune_controller.get_trials()) if trial.status == Trial.PENDING)
        return next(waiting, None)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its scheduler for a restore that raybd never makes
