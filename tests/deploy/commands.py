"""Do the commands exist that runbook, manifests and scripts run? Each check returns what is wrong."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import click
import typer.main
from mlflow.cli import cli as mlflow_cli
from ray.scripts.scripts import cli as ray_cli

from raybd.cli import app
from tests.deploy.manifests import Deploy

OTHERS = {
    "aws",
    "chmod",
    "cd",
    "cp",
    "docker",
    "export",
    "find",
    "helm",
    "kubectl",
    "pg_dump",
    "pg_restore",
    "psql",
    "raybd-job",
    "sbatch",
    "squeue",
    "tar",
}
"""What the runbook may use besides the three whose command lines are at hand."""


@cache
def _raybd_cli() -> Any:
    return typer.main.get_command(app)


def runbook(deploy: Deploy) -> list[str]:
    services = deploy.compose["services"]
    rooms = {c["name"] for pod in deploy.tools if pod["kind"] == "Pod" for c in pod["spec"]["containers"]}
    lines = [shlex.split(line) for line in deploy.commands()]
    return [problem for words in lines for problem in (*_wrong(words, services), *_in_pod(words, rooms, services))]


def _in_pod(words: list[str], rooms: set[str], services: dict[str, Any]) -> Iterator[str]:
    """What is wrong with what runs in the pod of tools.yaml: its container, or the command there."""
    if words[0] == "kubectl" and "--container" in words:
        name = words[words.index("--container") + 1]
        if name not in rooms:
            yield f"README.md: no container {name} in tools.yaml"
        if "--" in words:
            yield from _wrong(words[words.index("--") + 1 :], services)


def _wrong(words: list[str], services: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one command; what runs inside another (`docker compose exec`) is looked at as well."""
    program = words[0]
    if program in ("raybd", "ray", "mlflow"):
        yield from _wrong_call(words)
    elif program not in OTHERS:
        yield f"README.md: unknown program {program}"
    elif words[:3] in (["docker", "compose", "exec"], ["docker", "compose", "run"]):
        rest = [word for word in words[3:] if not word.startswith("-")] if words[3].startswith("-") else words[3:]
        inner = words[words.index(rest[0]) + 1 :]
        if rest[0] not in services:
            yield f"README.md: no service {rest[0]} in compose.yaml"
        yield from _wrong(inner, services)
    elif words[:2] == ["docker", "compose"]:
        named = {"stop", "start", "restart"} & {words[2]} and words[3:]
        yield from (f"README.md: no service {name} in compose.yaml" for name in named or () if name not in services)


def _wrong_call(words: list[str]) -> Iterator[str]:
    """What is wrong with a call of raybd, ray or mlflow: its verb or an option."""
    command: Any = {"raybd": _raybd_cli(), "ray": ray_cli, "mlflow": mlflow_cli}[words[0]]
    rest = words[1:]
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        verb = rest[0] if rest else ""
        if verb not in command.commands:
            yield f"{' '.join(words)}: {command.name} has no command '{verb}'"
            return
        command, rest = command.commands[verb], rest[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options.add("--help")
    yield from (
        f"{' '.join(words)}: no option {word}"
        for word in rest
        if word.startswith("--") and word.partition("=")[0] not in options
    )


def backup(deploy: Deploy) -> list[str]:
    """Cards are copied before the database that holds their trials, artifacts after the one that names them."""
    text = deploy.text("README.md").partition("## Backup and restore")[2]
    order = ["s3://raybd/runs backup/runs", '5432/raybd"', '5432/mlflow"', "s3://raybd/mlflow backup/mlflow"]
    places = [text.find(step) for step in order]
    return [] if -1 not in places and places == sorted(places) else [f"README.md: a backup in the order {places}"]


def manifests(deploy: Deploy) -> list[str]:
    """The commands in the manifests themselves: MLflow's server, Ray's nodes, the entrypoint."""
    found = [service["command"] for service in deploy.compose["services"].values() if "command" in service]
    options = deploy.values["server"]["value_options"]
    found.append(["mlflow", "server", *(f"--{key.replace('_', '-')}={value}" for key, value in options.items())])
    for config in deploy.ray_up.values():
        found += [shlex.split(line) for key, lines in config.items() if key.endswith("_ray_commands") for line in lines]
    sbatch = deploy.text("slurm/raybd.sbatch").replace("\\\n", " ")
    found += [shlex.split(call.rstrip("&")) for call in re.findall(r"\bray (?:start|health-check).*", sbatch)]
    found = [words for words in found if words[0] in ("ray", "mlflow", "raybd")]
    problems = [problem for words in found for problem in _wrong_call([w for w in words if not w.startswith("${")])]
    if not deploy.job["spec"]["entrypoint"].startswith("exec raybd-job "):
        problems.append("rayjob.yaml: the entrypoint is not raybd-job, which ends exits 3 and 4 as finished")
    return [*problems, *_machine_wide(deploy)]


def _machine_wide(deploy: Deploy) -> list[str]:
    """`ray stop` ends every Ray process of the machine; only a container that is Ray's alone may run it."""
    scripts = [name for name in deploy.files if not name.startswith("ray-up/") and name != "README.md"]
    bare = {name: re.sub(r"(?m)#.*", "", deploy.text(name)) for name in scripts}
    return [f"{name}: runs `ray stop`" for name, text in bare.items() if re.search(r"\bray stop\b", text)]
