"""The stage `search`: open the study, run its trials, keep its card."""

import time
from collections.abc import Sequence
from pathlib import Path

from raybd.artifacts import CARD, Study, Suspect
from raybd.registry import BadInput, as_json, read_card, write_json
from raybd.search.opening import begun
from raybd.search.records import (
    Job,
    OnProgress,
    OnStart,
    OnTrial,
    TrialRecord,
    discard_weights,
    front_of,
    weights_of,
)
from raybd.search.samplers import succession
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.space import Space
from raybd.settings import StudySettings
from raybd.stages.cards import load_study
from raybd.stages.execution import Executor
from raybd.stages.warm_start import warm_settings

CLOCK = "clock.json"


class _Clock:
    """Seconds a search has taken over all its sessions; written with each trial, because a kill asks nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(read_card(path, seconds=float)["seconds"]) if path.is_file() else 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def write(self) -> None:
        write_json(self._path, {"seconds": self.seconds})


def _draws(records: Sequence[TrialRecord]) -> int:
    """How many settings were proposed; repeats of one bear the same seed."""
    return len({record.seed for record in records})


def _with(clock: _Clock, on_trial: OnTrial) -> OnTrial:
    def note(record: TrialRecord) -> None:
        clock.write()
        on_trial(record)

    return note


def _complete(records: Sequence[TrialRecord], trials: Path, space: Space, executor: Executor) -> None:
    """Train again what is on the front and whose weights went down with a machine: same setting, same seed."""
    front = set(front_of(records))
    lost = [r for r in records if r.number in front and not weights_of(trials, r.number).is_file()]
    jobs = [Job(defense=space.build(r.setting), seed=r.seed, weights=weights_of(trials, r.number)) for r in lost]
    for job, outcome in zip(jobs, executor.map_jobs(jobs), strict=True):
        if outcome.state == "failed":
            raise RuntimeError(f"{job.weights}: lost, and training it again failed: {outcome.error}")


def check_start(folder: Path, *, resume: bool, trials: int | None, extend: int | None) -> None:
    """Refuse to go on with a search nobody said to go on with, to extend none, and to lower a budget.

    One that ended before its first trial did has nothing to go on with: it may begin again.

    Raises:
        BadInput: in words, with what to type instead.
    """
    found = begun(folder) and any((folder / name).is_file() for name in (CARD, CLOCK))
    if found and not resume and extend is None:
        raise BadInput(
            f"{folder}: this search has begun; go on with --resume, or extend it with --trials +N (in Python: "
            "resume=True, extend=N); `run` goes on by itself"
        )
    if extend is not None and not found:
        raise BadInput(f"{folder}: there is no search to extend yet; `raybd search STUDY.yaml` begins one")
    for name, value in (("--trials", trials), ("--trials +N", extend)):
        if value is not None and value < 1:
            raise BadInput(f"{name}: expected at least 1, got {value}")
    budget = load_study(folder).trials if (folder / CARD).is_file() else 0
    if trials is not None and trials < budget:
        raise BadInput(f"--trials: this search's budget is {budget} already, got {trials}")


def search(
    settings: StudySettings,
    suspect: Suspect,
    *,
    folder: Path,
    trials: int,
    extend: int,
    executor: Executor,
    on_trial: OnTrial,
    on_progress: OnProgress | None,
    on_start: OnStart | None,
    warm_start: Sequence[Path] = (),
) -> Study:
    """Run trials until the budget is met; return the study, whose card is also kept when interrupted.

    No card is written where no trial was told: whoever reads one takes it for a result.

    Args:
        settings: the study.
        suspect: what is sanitized.
        folder: of the search.
        trials: the budget.
        extend: so many more than the study's budget.
        executor: runs the trials.
        on_trial: called with each ended trial.
        on_progress: called with a trial's number and its latest stretch of training.
        on_start: called with the budget and the trials that ended before.
        warm_start: run folders of earlier searches whose best settings come first.
    """
    space = settings.load_space()
    clock = _Clock(folder / CLOCK)
    decider = OptunaDecider.open(
        folder,
        name=settings.name,
        space=space,
        limits=Limits(
            max_attack_success_rate=settings.gate.max_attack_success_rate,
            max_accuracy_drop=settings.search.max_accuracy_drop,
        ),
        suspect_digest=suspect.digest,
        trials=trials,
        sampler=settings.search.sampler,
        seed=settings.search.seed,
        extend=extend,
        warm=warm_settings(warm_start, space, settings.gate),
        storage=settings.cluster.optuna,
        known=[record["number"] for record in load_study(folder).records] if (folder / CARD).is_file() else (),
    )
    try:
        discard_weights(folder / "trials", decider.records())  # what a kill left
        if on_start is not None:
            on_start(decider.trials, decider.records())
        note = _with(clock, on_trial)
        executor.run(decider, trials=folder / "trials", on_trial=note, on_progress=on_progress)
        _complete(decider.records(), folder / "trials", space, executor)
    finally:
        decider.close()
        study = _study(settings, suspect, space, decider, executor, clock.seconds)
        if study.records:  # else it never began, and is no result
            study.save(folder)
    return study


def _study(
    settings: StudySettings,
    suspect: Suspect,
    space: Space,
    decider: OptunaDecider,
    executor: Executor,
    seconds: float,
) -> Study:
    """What a search came to so far, after `seconds` over all its sessions."""
    records, sampler = decider.records(), settings.search.sampler
    return Study(
        records=tuple(as_json(record) for record in records),
        front=front_of(records),
        space=as_json(space.describe()),
        sampler=sampler,
        seed=settings.search.seed,
        trials=decider.trials,
        suspect_digest=suspect.digest,
        seconds=seconds,
        workers=executor.workers,
        reference=executor.reference,
        warm_start=tuple(dict(setting) for setting in decider.warm),
        successors={s.name: s.draw for s in succession(sampler, _draws(records))},
    )
