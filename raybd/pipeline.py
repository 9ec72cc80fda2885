"""The flow in seven words: inject or adopt, search, select, assess, promote, report; and `run`, all of them.

A word does its work whenever it is called, here as on the command line, and replaces what it made before. Some refuse
where that would cost a search: `inject` and `adopt` once a search of their suspect has begun, and `search` itself,
which goes on only with `resume` or `extend`. `run` alone keeps what is done: called again, it does what is left.

Run folders lie in `runs`; by default on `cluster.storage` where that is a path, else in the folder `runs` here. Every
word that writes raises `Outage` where a service is away that it needs: the same call does it later.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import dropwhile
from pathlib import Path
from typing import Any

from raybd import tracking
from raybd.artifacts import Assessment, Candidate, GateRefused, NothingFeasible, Study, Suspect
from raybd.registry import BadInput
from raybd.search.opening import begun
from raybd.search.records import OnProgress, OnStart, OnTrial
from raybd.settings import StudySettings
from raybd.stages import (
    assessing,
    execution,
    preparation,
    promoting,
    recording,
    reporting,
    searching,
    selecting,
    suspects,
)
from raybd.stages.cards import load_study
from raybd.stages.holding import fetch, keeping, take
from raybd.stages.jobs import OnDone
from raybd.stages.run_folder import STUDY, RunFolder
from raybd.stages.suspects import OnTraining
from raybd.stages.warm_start import check_warm
from raybd.tracking import Delivered, Version

OnStage = Callable[[str], None]


@keeping()
def inject(settings: StudySettings, *, runs: Path | None = None, on_training: OnTraining | None = None) -> Suspect:
    """Train a suspect with a backdoor of our own, and its never-poisoned twin, into `runs/NAME/inject`.

    `on_training` is told of each stretch of each training.

    Raises:
        BadInput: if the study adopts a suspect, its attack does not count as one, or a search of the one here began.
    """
    if not settings.injects:
        raise BadInput("inject: this study brings its own suspect; use `raybd adopt`")
    _taken(settings, runs)
    ready = preparation.bench(settings)
    suspect = suspects.injected(settings, ready, suspects.workshop(settings, ready, on_training))
    return _settled(settings, suspect, "inject", runs)


@keeping()
def adopt(settings: StudySettings, *, runs: Path | None = None, on_training: OnTraining | None = None) -> Suspect:
    """Take the user's own model, data and trigger in, into `runs/NAME/adopt`.

    Under another task the reference model is trained; `on_training` is told of each stretch of it.

    Raises:
        BadInput: whatever of model, weights, data or trigger cannot be used; if a search of the one here has begun.
    """
    if settings.suspect is None:
        raise BadInput("adopt: this study plants its own backdoor; use `raybd inject`")
    _taken(settings, runs)
    ready = preparation.bench(settings)
    with tempfile.TemporaryDirectory() as scratch:
        weights, origin = preparation.weights_file(settings, Path(scratch))
        suspect = suspects.adopted(settings, ready, weights, origin, on_training)
    return _settled(settings, suspect, "adopt", runs)


@keeping()
def search(
    settings: StudySettings,
    *,
    runs: Path | None = None,
    resume: bool = False,
    trials: int | None = None,
    extend: int | None = None,
    warm_start: Sequence[Path] = (),
    on_trial: OnTrial | None = None,
    on_progress: OnProgress | None = None,
    on_start: OnStart | None = None,
) -> Study:
    """Search the space for settings that remove the backdoor; the study lies in `runs/NAME/search`.

    Args:
        settings: the study.
        runs: where run folders lie.
        resume: go on with a search that has begun.
        trials: the budget, instead of the study's.
        extend: so many trials more than the search's budget.
        warm_start: run folders of earlier searches, on other models, whose best settings are tried first.
        on_trial: called with each ended trial.
        on_progress: called with a trial's number and its latest stretch of training.
        on_start: called with the budget and the trials that ended before.

    Raises:
        BadInput: if the trigger is unknown, or the folder holds another search, or this one and nobody said to go on.
    """
    folder, suspect = _opened(settings, runs)
    _ = suspect.trigger
    searching.check_start(folder.stage("search"), resume=resume, trials=trials, extend=extend)
    with recording.SearchLog(settings, suspect, folder) as log:
        study = searching.search(
            settings,
            suspect,
            folder=folder.stage("search"),
            trials=settings.search.trials if trials is None else trials,
            extend=extend or 0,
            executor=execution.executor(settings, suspect),
            on_trial=execution.both(log.trial, on_trial),
            on_progress=on_progress,
            on_start=execution.both(log.begin, on_start),
            warm_start=warm_start,
        )
        log.front(study, folder.stage("search"))
    return study


@keeping()
def select(settings: StudySettings, *, runs: Path | None = None, on_done: OnDone | None = None) -> Candidate:
    """Pick the best settings of the search, confirm them with fresh seeds, and keep the weights that will ship.

    `on_done` is told how many of how many trainings are done.

    Raises:
        NothingFeasible: if no setting meets the gate on selection, or none does again with fresh seeds.
    """
    folder, suspect = _opened(settings, runs)
    study = load_study(folder.require("search"))
    executor = execution.executor(settings, suspect)
    home = folder.stage("select")
    return selecting.select(settings, suspect, study, folder=home, executor=executor, on_done=on_done)


@keeping()
def assess(settings: StudySettings, *, runs: Path | None = None, on_done: OnDone | None = None) -> Assessment:
    """Measure suspect, references and candidate on the test split, with the sequela; `on_done` is as for `select`."""
    folder, suspect = _opened(settings, runs)
    candidate = Candidate.load(folder.require("select"))
    assessment = assessing.assess(
        suspect,
        candidate,
        references=settings.references,
        gate=settings.gate,
        seed=settings.search.seed,
        folder=folder.stage("assess"),
        executor=execution.executor(settings, suspect),
        on_done=on_done,
    )
    recording.assessment(settings, assessment, folder)  # first: what is saved is taken as done, and never said again
    return assessment.save(folder.stage("assess"))


@keeping()
def promote(settings: StudySettings, *, runs: Path | None = None) -> dict[str, Any]:
    """Register the candidate and move the alias to it, if the gate lets it pass.

    Raises:
        GateRefused: naming each limit that failed; nothing is registered.
        BadInput, Unreachable: if MLflow refuses or does not answer; the alias has not moved.
    """
    folder, suspect = _opened(settings, runs)
    candidate = Candidate.load(folder.require("select"))
    assessment = Assessment.load(folder.require("assess"))
    card = promoting.promote(settings, suspect, candidate, assessment, folder)
    if card["refusals"]:
        raise GateRefused("the gate refused this candidate:\n" + "\n".join(f"- {r}" for r in card["refusals"]))
    return card


@keeping()
def rollback(settings: StudySettings, *, runs: Path | None = None) -> Version:
    """Give the alias back to the version that held it before.

    Raises:
        BadInput: if nothing held it before.
        Unreachable: if MLflow does not answer.
    """
    return promoting.rollback(settings, _held(settings, runs))


@keeping()
def report(settings: StudySettings, *, runs: Path | None = None) -> Path:
    """Write `report.html` and `summary.json` from whatever the stages have left; return the page's path."""
    folder, suspect = _opened(settings, runs)
    if folder.has("select"):
        Candidate.load(folder.stage("select"))  # its weights go to MLflow with the page
    page = reporting.write(settings, suspect, folder)
    recording.finish(settings, suspect, folder, page)
    return page


@keeping()
def sync(settings: StudySettings, *, runs: Path | None = None) -> Delivered:
    """Deliver to MLflow what waited in the run folder while the server was down, each record exactly once."""
    folder = _held(settings, runs)
    return tracking.sync(folder.path, settings.tracking.uri, base=settings.folder)


@keeping()
def run(
    settings: StudySettings,
    *,
    runs: Path | None = None,
    warm_start: Sequence[Path] = (),
    on_trial: OnTrial | None = None,
    on_progress: OnProgress | None = None,
    on_start: OnStart | None = None,
    on_stage: OnStage = lambda word: None,
    on_kept: OnStage = lambda word: None,
    on_training: OnTraining | None = None,
    on_done: OnDone | None = None,
) -> Path:
    """Do the whole flow; stages that an earlier run finished are not repeated. Return the report's path.

    Args:
        settings: the study.
        runs: where run folders lie.
        warm_start: as `search` takes it.
        on_trial: the same.
        on_progress: the same.
        on_start: the same.
        on_stage: called with each word as its stage begins.
        on_kept: called with each word that an earlier run finished.
        on_training: as `inject` and `adopt` take it.
        on_done: as `select` and `assess` take it.

    Raises:
        NothingFeasible, GateRefused, Unreachable: after the report is written.
        BadInput: whatever the user got wrong.
    """
    runs = settings.cluster.runs(runs)
    _taken(settings, runs)
    bring = "inject" if settings.injects else "adopt"
    words: dict[str, Callable[[], object]] = {
        bring: lambda: (inject if settings.injects else adopt)(settings, runs=runs, on_training=on_training),
        "search": lambda: search(
            settings,
            runs=runs,
            resume=True,
            warm_start=warm_start,
            on_trial=on_trial,
            on_progress=on_progress,
            on_start=on_start,
        ),
        "select": lambda: select(settings, runs=runs, on_done=on_done),
        "assess": lambda: assess(settings, runs=runs, on_done=on_done),
        "promote": lambda: promote(settings, runs=runs),
    }
    ended: NothingFeasible | GateRefused | tracking.Unreachable | None = None
    # What is done anew makes all that follows out of date.
    todo = dict(dropwhile(lambda item: _done(settings, runs, item[0]), words.items()))
    if warm_start and "search" not in todo:
        check_warm(RunFolder.open(settings, runs, create=False).stage("search"), settings, warm_start)
    for word in (word for word in words if word not in todo):
        on_kept(word)
    with execution.session(settings) if todo else nullcontext():
        for word, act in todo.items():
            on_stage(word)
            try:
                act()
            except (NothingFeasible, GateRefused, tracking.Unreachable) as error:
                ended = error
                break
    on_stage("report")
    page = report(settings, runs=runs)
    if ended is not None:
        raise ended
    return page


def validate(settings: StudySettings) -> dict[str, Any]:
    """Load everything a study names, put one batch through the model, and say what was found.

    Nothing is trained: what a trigger does to a model from another task is read from its reference, which `adopt`
    trains.

    Raises:
        BadInput: whatever cannot be used; nothing is written.
    """
    ready = preparation.bench(settings)
    if settings.suspect is None:
        suspects.check_injection(settings, ready, suspects.workshop(settings, ready))
        return preparation.overview(settings, ready, "trained here")
    with tempfile.TemporaryDirectory() as scratch:
        weights, origin = preparation.weights_file(settings, Path(scratch))
        found = suspects.examined(settings, ready, weights)
    return preparation.overview(settings, ready, origin, found)


def _settled(settings: StudySettings, suspect: Suspect, word: str, runs: Path | None) -> Suspect:
    """Save a suspect into its run folder, which is made, or checked, only now that everything has been read."""
    folder = RunFolder.open(settings, settings.cluster.runs(runs), create=True)
    take(settings, folder.path.parent)
    if begun(folder.stage("search")):
        raise BadInput(
            f"{folder.path}: a search of this suspect has begun; `run` goes on with it, a new suspect needs a new run"
        )
    for abandoned in folder.path.glob(f".{word}.*"):  # a kill left it
        shutil.rmtree(abandoned)
    draft = folder.stage(f".{word}.{os.getpid()}")
    suspect.save(draft)
    shutil.rmtree(folder.stage(word), ignore_errors=True)
    draft.replace(folder.stage(word))
    return Suspect.load(folder.stage(word), suspect.bench)


def _taken(settings: StudySettings, runs: Path | None) -> None:
    """Hold the run folder where there is one: who comes too late learns it before the work, not after."""
    home = settings.cluster.runs(runs)
    fetch(settings, home)
    if (home / settings.name / STUDY).is_file():
        take(settings, home)


def _held(settings: StudySettings, runs: Path | None) -> RunFolder:
    """The run folder of a study, which is there, held."""
    home = settings.cluster.runs(runs)
    fetch(settings, home)
    folder = RunFolder.open(settings, home, create=False)
    take(settings, home)
    return folder


def _opened(settings: StudySettings, runs: Path | None) -> tuple[RunFolder, Suspect]:
    """The run folder of a study and the suspect in it."""
    folder = _held(settings, runs)
    home = folder.suspect
    return folder, Suspect.load(home, preparation.bench(settings, home))


def _done(settings: StudySettings, runs: Path, word: str) -> bool:
    """Whether an earlier run finished a stage, from what is there now: a search only when its budget was met."""
    if not (runs / settings.name).exists():
        return False
    folder = RunFolder.open(settings, runs, create=False)
    if word == "search" and folder.has(word):
        study = load_study(folder.stage(word))
        counted = [record for record in study.records if record["state"] != "failed"]
        return len(counted) >= max(study.trials, settings.search.trials)
    if word == "promote":
        card = folder.card(word)
        return card is not None and (card["promoted"] is True or "rolled_back_to" in card)
    return folder.fresh(word)
