"""The commands of `raybd`, one for each verb; torch and all that needs it is imported when a command runs."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from raybd import __version__
from raybd.cli import jobs, show
from raybd.cli.console import err
from raybd.cli.guard import Guarded
from raybd.registry import BadInput, nearest

app = typer.Typer(
    name="raybd",
    epilog="First time here? `raybd run demo`. A study of your own is one YAML file; the README walks through it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="The study: a YAML file, or the name of a shipped one, such as demo.")
]
Runs = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where run folders lie; a study writes to DIR/NAME and nowhere else. Without it: where the study's "
        "cluster.storage says, if that is a path, else runs.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a search that was interrupted.")]
Trials = Annotated[
    str | None,
    typer.Option(metavar="N|+N", help="The number of trials instead of the study's; +N adds N to a search."),
]
Warm = Annotated[
    list[Path] | None,
    typer.Option(
        "--warm-start",
        metavar="RUN",
        help="A run folder of an earlier search, on any model: its best settings are tried first. Repeatable.",
    ),
]
Rollback = Annotated[bool, typer.Option("--rollback", help="Give the alias back to the version that held it before.")]
What = Annotated[str, typer.Argument(metavar="WHAT", help=f"One of: {', '.join(show.LISTS)}.")]


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"raybd {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="After an error, show where in the code it arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Find the super-fine-tuning settings that remove a backdoor from your image classifier.

    `raybd run STUDY` does everything; the other verbs are its stages, one at a time.
    """


def _settings(study: str) -> Any:
    from raybd.settings import load_study

    return load_study(study)


def _home(settings: Any, runs: Path | None) -> Path:
    """Where the run folder lies, which is said where the study says otherwise."""
    home: Path = settings.cluster.runs(runs)
    elsewhere = settings.cluster.folder
    if elsewhere is not None and home.absolute() != elsewhere:
        err.print(
            f"The run folder is {home / settings.name}, as --runs says, not on cluster.storage ({elsewhere}).",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    return home


@app.command(cls=Guarded)
def run(study: Study, warm_start: Warm = None, runs: Runs = None) -> None:
    """Do it all: suspect, search, select, assess, promote, report. Stages already done are not repeated."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline
    from raybd.artifacts import GateRefused, NothingFeasible

    try:
        with show.running() as callbacks:
            pipeline.run(settings, runs=home, warm_start=warm_start or (), **callbacks)
    except (NothingFeasible, GateRefused):
        show.outcome(home / settings.name)  # it has a report, which says why
        raise
    show.outcome(home / settings.name)


@app.command(cls=Guarded)
def inject(study: Study, runs: Runs = None) -> None:
    """Train a suspect whose backdoor we plant ourselves, and its never-poisoned twin."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    show.suspect(pipeline.inject(settings, runs=home, **show.training()).card())


@app.command(cls=Guarded)
def adopt(study: Study, runs: Runs = None) -> None:
    """Take in your own model, with its data and trigger, as the suspect."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    show.suspect(pipeline.adopt(settings, runs=home, **show.training()).card())


@app.command(cls=Guarded)
def search(
    study: Study, resume: Resume = False, trials: Trials = None, warm_start: Warm = None, runs: Runs = None
) -> None:
    """Try settings of the defense on the suspect; every trial is kept, and a killed search can be resumed."""
    budget = _budget(trials)
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    with show.searching() as callbacks:
        pipeline.search(settings, runs=home, resume=resume, warm_start=warm_start or (), **budget, **callbacks)
    show.front(home / settings.name)
    show.waiting(home / settings.name)


def _budget(trials: str | None) -> dict[str, Any]:
    """`50` as the whole budget, `+50` as so many more."""
    if trials is None:
        return {}
    digits = trials.removeprefix("+")
    if not digits.isdecimal() or int(digits) < 1:
        raise BadInput(f"--trials: expected a number of trials such as 50, or +50 for 50 more, got {trials!r}")
    return {"extend" if trials.startswith("+") else "trials": int(digits)}


@app.command(cls=Guarded)
def select(study: Study, runs: Runs = None) -> None:
    """Choose the best settings found, confirm them with fresh seeds, and keep the weights that will ship."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    if (home / settings.name / "search").is_dir():  # else it is fetched first, or it is said what is missing
        show.front(home / settings.name)
    show.choice(pipeline.select(settings, runs=home, **show.repeating()).card)


@app.command(cls=Guarded)
def assess(study: Study, runs: Runs = None) -> None:
    """Measure suspect, published settings and candidate on the test split, and what else the defense changed."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    pipeline.assess(settings, runs=home, **show.repeating())
    show.assessment(home / settings.name)


@app.command(cls=Guarded)
def promote(study: Study, rollback: Rollback = False, runs: Runs = None) -> None:
    """Register the candidate and move the alias to it, if it passes the gate."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    if rollback:
        show.version(pipeline.rollback(settings, runs=home), settings.tracking.alias)
    else:
        show.promotion(pipeline.promote(settings, runs=home))


@app.command(cls=Guarded)
def report(study: Study, runs: Runs = None) -> None:
    """Write report.html, one page that opens offline, and summary.json, from what the stages have left."""
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    pipeline.report(settings, runs=home)
    show.outcome(home / settings.name)


@app.command(cls=Guarded)
def sync(study: Study, runs: Runs = None) -> None:
    """Deliver to the tracking server what waited in the run folder while the server was down.

    Exit status 1 if anything still waits.
    """
    settings = _settings(study)
    home = _home(settings, runs)
    from raybd import pipeline

    done = pipeline.sync(settings, runs=home)
    show.delivered(done)
    if done.left:
        raise typer.Exit(1)


@app.command(cls=Guarded)
def validate(study: Study) -> None:
    """Load all that a study names, put one batch through the model, and say what was found. Writes nothing."""
    settings = _settings(study)
    from raybd import pipeline

    show.overview(pipeline.validate(settings))


@app.command(cls=Guarded)
def speed(
    study: Study,
    trials: Annotated[int | None, typer.Option(min=1, help="Predict for so many trials, not the study's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Predict for so many workers, not this machine's.")] = None,
) -> None:
    """Measure how fast this machine runs a study's trials, and say how long its search would take. Writes nothing."""
    settings = _settings(study)
    from raybd.speed import measure

    show.speed(measure(settings, trials=trials, workers=workers, on_step=show.step))


@app.command(cls=Guarded)
def submit(
    study: Study,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's log until it ends, and end with its exit code.")
    ] = False,
) -> None:
    """Run a study as a job of the Ray cluster it names; submitted again, it goes on where it was."""
    settings = _settings(study)
    from raybd import cluster

    jobs.submitted(cluster.submit(settings), study)
    if follow:
        raise typer.Exit(jobs.followed(partial(cluster.follow, settings), study))


@app.command(cls=Guarded)
def status(study: Study) -> None:
    """Say how a study's job on the cluster is: its state, the trials done, the end of its log."""
    settings = _settings(study)
    from raybd import cluster

    jobs.job(cluster.status(settings))


@app.command(cls=Guarded)
def stop(study: Study) -> None:
    """End a study's job on the cluster in order, and nothing else there; `raybd submit` goes on with it."""
    settings = _settings(study)
    from raybd import cluster

    raise typer.Exit(jobs.stopped(cluster.stop(settings), study))


@app.command("list", cls=Guarded)
def list_(what: What) -> None:
    """List what a study can name: models, attacks, triggers, spaces and so on."""
    if what not in show.LISTS:
        raise BadInput(f"WHAT: unknown '{what}'{nearest(what, show.LISTS)}")
    from raybd.cli.listing import entries

    show.entries(entries(what))


def main() -> None:
    """Run the command line; the installed `raybd` calls this."""
    app()
