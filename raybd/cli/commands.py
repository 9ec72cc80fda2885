"""The commands of `raybd`, one for each verb; nothing heavy is imported before a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from raybd import __version__
from raybd.cli.console import show
from raybd.cli.guard import Guarded
from raybd.registry import BadInput, read_json

app = typer.Typer(
    name="raybd",
    help="Find the super-fine-tuning settings that remove a backdoor from your image classifier.",
    epilog="First time here: `raybd run demo`. A study of your own is one YAML file; the README walks through it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="The study: a YAML file, or the name of a shipped one (demo).")
]
Runs = Annotated[
    Path, typer.Option(metavar="DIR", help="The folder of all runs; a study writes to DIR/NAME and nowhere else.")
]
RUNS = Path("runs")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="After an error, show where in the code it arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Find the super-fine-tuning settings that remove a backdoor from your image classifier."""
