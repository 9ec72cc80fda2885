"""The decider: an Optuna study on disk, asked and told, that no kill and no crash can unbalance."""

import math
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from raybd.registry import BadInput, as_json, nearest, revive
from raybd.search.opening import OpenStudy, open_study
from raybd.search.records import OBJECTIVES, Objective, Outcome, Proposal, Reading, TrialRecord
from raybd.search.rungs import Rungs
from raybd.search.samplers import SAMPLERS, distribution, in_charge
from raybd.search.scrutiny import check_study
from raybd.search.space import Space
from raybd.seeds import derive

LISTED = "listed"
"""Who proposed a setting of the space's first ones or of a warm start; another proposal bears its sampler's name."""
ATTEMPTS = 3
"""A setting whose trial fails is tried so often in all, then given up."""
GIVEN_UP = 3
"""So many settings given up in a row end the search: the fault is not in the settings."""

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class TooManyFailures(RuntimeError):
    """Settings fail one after the other; the message holds the last trial's error."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What makes a trial feasible, as fractions: the search's two constraints."""

    max_attack_success_rate: float
    max_accuracy_drop: float


class OptunaDecider:
    """Proposes settings and keeps the study; open it with `open`, one at a time per folder.

    A *draw* is a setting, proposed once; a failed or interrupted trial of it is repeated as a new trial with
    the same setting and seed. Draws, not trials, number the seeds: a resumed search goes on as undisturbed.
    """

    def __init__(
        self,
        opened: OpenStudy,
        *,
        space: Space,
        limits: Limits,
        sampler: str,
        seed: int,
        objectives: Mapping[str, Objective],
    ) -> None:
        self._study = opened.study
        self._storage = opened.storage
        self._held = opened.held
        self._let_go = opened.close
        self._space = space
        self._limits = limits
        self._sampler = sampler
        self._seed = seed
        self._objectives = objectives
        self._first = [dict(setting) for setting in (*space.first, *opened.warm)]
        self._distributions = {name: distribution(dim) for name, dim in space.search.items()}
        self._ended: dict[int, TrialRecord] = {}
        self._counted = 0
        self._running: dict[int, Trial] = {}
        self._in_line: deque[int] = deque()
        self._repeats: deque[dict[str, Any]] = deque()
        self._attempts: Counter[int] = Counter()
        self._rungs = Rungs(**vars(limits))
        self._draws = 0
        self._given_up: list[str] = []
        self.trials = opened.trials
        self.warm = opened.warm

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        name: str,
        space: Space,
        limits: Limits,
        suspect_digest: str,
        trials: int,
        sampler: str = "tpe",
        seed: int = 0,
        extend: int = 0,
        objectives: Mapping[str, Objective] = OBJECTIVES,
        warm: Sequence[Mapping[str, Any]] = (),
        storage: str | None = None,
        known: Collection[int] = (),
    ) -> Self:
        """Return the decider of the study in `folder`, begun or resumed.

        Trials of a resumed study that nobody owns any more are told what they came to, or FAIL and repeated.

        Args:
            folder: of the search; made if need be.
            name: of the study.
            space: what may be proposed.
            limits: what makes a trial feasible.
            suspect_digest: of the suspect that the trials sanitize.
            trials: the budget, complete and pruned ones; a study once extended keeps the larger one.
            sampler: a key of `SAMPLERS`.
            seed: of the search.
            extend: so many more than the budget.
            objectives: the figures to steer by.
            warm: settings to try after the space's own first ones; a resumed study has its own.
            storage: address of the PostgreSQL that keeps the study; without one a journal in the folder does.
            known: trials that are known, from elsewhere, to be in the study.

        Raises:
            BadInput: for a budget below one or an unknown sampler; if the folder holds a study of something
                else or with another warm start, which is left as it was; if another process is searching there; if
                a known trial is missing.
            DatabaseDown: if the database does not answer.
        """
        _check_budget(trials, extend, sampler)
        identity = {
            "space": space.digest(),
            "suspect": suspect_digest,
            "sampler": sampler,
            "seed": seed,
            "limits": as_json(limits),
            "objectives": {key: objective.direction for key, objective in objectives.items()},
        }
        opened = open_study(
            folder,
            name=name,
            identity=identity,
            objectives=objectives,
            trials=trials,
            extend=extend,
            warm=warm,
            storage=storage,
            check=lambda study: check_study(study, space, [each.direction for each in objectives.values()]),
        )
        decider = cls(opened, space=space, limits=limits, sampler=sampler, seed=seed, objectives=objectives)
        try:
            decider._check_whole(known, folder)
            decider._recover()
        except BaseException:
            opened.close()
            raise
        return decider

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Tell what is still running FAIL, so that nothing stays RUNNING, and let others open the study."""
        if self._held.closed:
            return
        try:
            if not self._held.lost:  # else whoever opens the study next tells it
                self._end_running("interrupted")
        finally:  # a full disk takes no word either
            self._let_go()

    @property
    def finished(self) -> bool:
        """Whether the budget is met: so many trials are complete (collapsed ones among them) or pruned."""
        return self._counted >= self.trials

    def records(self) -> tuple[TrialRecord, ...]:
        """Return every ended trial by number."""
        return tuple(self._ended[number] for number in sorted(self._ended))

    def ask(self, *, ticket: str = "") -> Proposal | None:
        """Return the next trial, or None while the budget is met or would be by the trials under way.

        `ticket` is the executor's own name of the trial, kept beside it.

        Raises:
            TooManyFailures: if one setting after the other was given up.
        """
        if len(self._given_up) >= GIVEN_UP:
            last = self._given_up[-1]
            raise TooManyFailures(f"{GIVEN_UP} settings in a row failed {ATTEMPTS} times each, last with: {last}")
        if self._counted + len(self._running) >= self.trials:
            return None
        draw = self._enqueued()
        sampler = in_charge(self._sampler, draw)
        seed = derive(self._seed, "sampler", draw) % 2**32
        self._study.sampler = SAMPLERS[sampler](seed, derive(self._seed, "sampler") % 2**32)
        trial = self._study.ask(self._distributions)
        if self._in_line:
            self._in_line.popleft()  # Optuna hands out what waits before it asks a sampler
        proposal = trial.user_attrs.get("proposal")
        if proposal is None:
            proposal = self._proposal(dict(trial.params), draw, sampler)
            trial.set_user_attr("proposal", proposal)
        if ticket:
            trial.set_user_attr("ray_trial_id", ticket)
        self._held.sync()
        self._draws = max(self._draws, proposal["draw"] + 1)
        self._running[trial.number] = trial
        setting = proposal["setting"]
        return Proposal(number=trial.number, setting=setting, defense=self._space.build(setting), seed=proposal["seed"])

    def tell(self, number: int, outcome: Outcome) -> TrialRecord | None:
        """Take note of how a trial ended; None, and nothing is changed, if it had ended before."""
        if number not in self._running:
            return None
        faulty = [name for name, value in outcome.objectives.items() if not math.isfinite(value)]
        missing = [name for name in self._objectives if name not in outcome.objectives]
        if outcome.state == "complete" and (faulty or missing):
            outcome = Outcome.failed(f"objectives without a finite value: {', '.join(faulty + missing)}")
        return self._end(number, outcome)

    def judge(self, number: int, reading: Reading) -> str:
        """Take note of what a trial showed at a rung; return why to give it up, or ''."""
        trial = self._running.get(number)
        if trial is None:
            return "it has ended"
        trial.set_user_attr(*Rungs.attribute(reading))
        return self._rungs.judge(number, reading)

    def _enqueued(self) -> int:
        """Put what needs no sampler in line: a repeat, else the next of `first`; return the draw to come."""
        if self._in_line:  # a kill came between putting it there and asking for it
            return self._in_line[0]
        if self._repeats:
            plan = self._repeats.popleft()
        elif self._draws < len(self._first):
            plan = self._proposal(self._first[self._draws], self._draws, LISTED)
        else:
            return self._draws
        self._study.enqueue_trial(plan["setting"], user_attrs={"proposal": plan})
        self._in_line.append(int(plan["draw"]))
        return self._in_line[0]

    def _proposal(self, setting: dict[str, Any], draw: int, by: str) -> dict[str, Any]:
        return {"setting": setting, "seed": derive(self._seed, "trial", draw), "draw": draw, "by": by}

    def _end(self, number: int, outcome: Outcome, *, interrupted: bool = False) -> TrialRecord | None:
        """Write down how a trial ended; what an interrupted call had written down already stands."""
        trial = self._running.get(number) or self._handle(number)
        attributes = trial.user_attrs
        if "outcome" in attributes:
            outcome, interrupted = _written(attributes["outcome"])
        else:
            trial.set_user_attr("outcome", {**as_json(outcome), "interrupted": interrupted})
        if outcome.state != "failed":
            for name, value in self._violations(outcome).items():
                if name not in trial.constraints:
                    trial.set_constraint(name, value)
        complete = outcome.state == "complete"
        values = [outcome.objectives[name] for name in self._objectives] if complete else None
        self._study.tell(number, values, state=_STATES[outcome.state])
        self._held.sync()
        self._running.pop(number, None)
        proposal = attributes.get("proposal")
        if proposal is None:  # killed before the setting was written down: nothing was ever tried
            return None
        record = self._note(number, proposal, outcome, interrupted)
        if outcome.state == "failed":
            self._rungs.forget(number)
        self._after(proposal, outcome, interrupted)
        return record

    def _handle(self, number: int) -> Trial:
        """A handle on a running trial of an earlier process."""
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._study.sampler = RandomSampler()  # a Trial asks the sampler on construction; nothing comes of it
        return Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _violations(self, outcome: Outcome) -> dict[str, float]:
        """The constraints, at most zero where they hold. Whoever collapsed or was pruned violates one by far.

        Without a violated constraint Optuna ranks a pruned trial above every infeasible one.
        """
        rate, drop = outcome.attack_success_rate, outcome.accuracy_drop
        asr = 1.0 if rate is None else rate.rate - self._limits.max_attack_success_rate
        loss = 1.0 if drop is None else drop.value - self._limits.max_accuracy_drop
        if outcome.state == "pruned" or outcome.collapsed:
            loss = max(loss, 1.0)
        return {"attack_success_rate": asr, "accuracy_drop": loss}

    def _note(self, number: int, proposal: Mapping[str, Any], outcome: Outcome, interrupted: bool) -> TrialRecord:
        """Keep the record of an ended trial. The count is kept along: it is asked for with every trial."""
        feasible = outcome.state == "complete" and max(self._violations(outcome).values()) <= 0
        facts = {"feasible": feasible, "interrupted": interrupted and outcome.state == "failed"}
        record = TrialRecord.of(number, proposal["setting"], proposal["seed"], outcome, **facts)
        self._ended[number] = record
        self._counted += record.counts
        return record

    def _after(self, proposal: Mapping[str, Any], outcome: Outcome, interrupted: bool) -> None:
        """Repeat a setting whose trial did not get to an end, or give it up after too many failures."""
        draw = int(proposal["draw"])
        self._draws = max(self._draws, draw + 1)
        if outcome.state != "failed":
            self._given_up.clear()
            return
        self._attempts[draw] += not interrupted
        if self._attempts[draw] < ATTEMPTS:
            self._repeats.append(dict(proposal))
            return
        self._given_up.append(outcome.error)

    def _check_whole(self, known: Collection[int], folder: Path) -> None:
        missing = set(known) - {trial.number for trial in self._study.get_trials(deepcopy=False)}
        if missing:
            raise BadInput(
                f"{folder}: the study no longer holds trial {min(missing)}, which its card.json tells of; "
                "its journal.log was cut short or replaced: put it back, or give the study another name"
            )

    def _recover(self) -> None:
        """Rebuild the records from the journal alone and end what an earlier process left running."""
        last: dict[int, FrozenTrial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            proposal = trial.user_attrs.get("proposal")
            if proposal is not None:
                last[proposal["draw"]] = trial
                self._draws = max(self._draws, proposal["draw"] + 1)
            if trial.state.is_finished() and proposal is not None:
                self._keep(trial, proposal)
            if trial.state == TrialState.WAITING and proposal is not None:
                self._in_line.append(int(proposal["draw"]))
        for draw, trial in sorted(last.items()):
            if trial.state == TrialState.FAIL and self._attempts[draw] < ATTEMPTS:
                self._repeats.append(trial.user_attrs["proposal"])
        self._end_running("interrupted: its driver was lost")
        self._repeats = deque(sorted(self._repeats, key=lambda proposal: int(proposal["draw"])))
        self._given_up.clear()

    def _end_running(self, why: str) -> None:
        """End what the study says is running, which may be more than we know: an `ask` that was cut short left it."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            record = self._end(trial.number, Outcome.failed(why), interrupted=True)
            if record is not None and record.state != "failed":  # its end was half told
                self._rungs.restore(trial.number, trial.user_attrs)

    def _keep(self, trial: FrozenTrial, proposal: Mapping[str, Any]) -> None:
        outcome, interrupted = _written(trial.user_attrs["outcome"])
        self._note(trial.number, proposal, outcome, interrupted)
        if outcome.state != "failed":
            self._rungs.restore(trial.number, trial.user_attrs)
        self._attempts[proposal["draw"]] += trial.state == TrialState.FAIL and not interrupted


def _written(attribute: Mapping[str, Any]) -> tuple[Outcome, bool]:
    """What a trial's journal says: how it ended, and whether that was an interruption."""
    outcome: Outcome = revive(Outcome, {key: value for key, value in attribute.items() if key != "interrupted"})
    return outcome, bool(attribute["interrupted"])


def _check_budget(trials: int, extend: int, sampler: str) -> None:
    if trials < 1:
        raise BadInput(f"search.trials: expected at least 1, got {trials}")
    if extend < 0:
        raise BadInput(f"--trials: expected at least +1, got {extend}")
    if sampler not in SAMPLERS:
        raise BadInput(f"search.sampler: unknown '{sampler}'{nearest(sampler, SAMPLERS)}")
