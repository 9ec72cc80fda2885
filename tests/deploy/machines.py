"""Does each machine find what it needs, memory, files, room for the trials? Each check returns what is wrong."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.manifests import Deploy

LEAST_STORE = 75 * 2**20
"""Ray starts with no smaller object store."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "mb": 2**20, "gb": 2**30}


def scale(deploy: Deploy) -> list[str]:
    """A study on KubeRay asks for as many trials at once as fill all workers there may be, and for no more."""
    (study,) = [yaml.safe_load(files["study.yaml"]) for where, files in deploy.studies() if where.startswith("kuberay")]
    wanted = study["resources"]
    problems = []
    for where, spec in deploy.cluster_specs():
        room = sum(group["maxReplicas"] * _fit(group, wanted) for group in spec["workerGroupSpecs"])
        if wanted.get("workers") != room:
            problems.append(f"{where}: room for {room:g} trials, resources.workers is {wanted.get('workers')}")
    return problems


def _fit(group: dict[str, Any], wanted: dict[str, Any]) -> int:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(
        min(float(limits["nvidia.com/gpu"]) / wanted["gpus_per_trial"], float(limits["cpu"]) / wanted["cpus_per_trial"])
    )


def stores(deploy: Deploy) -> list[str]:
    """Ray's object store fits into /dev/shm; left to itself Ray takes 30 % of the memory and goes to the disk."""
    return [
        f"{where}: an object store of {store or 'any size'} in a /dev/shm of {room}"
        for where, store, room in _stores(deploy)
        if store is None or not LEAST_STORE <= int(store) < room
    ]


def _stores(deploy: Deploy) -> Iterator[tuple[str, str | None, int]]:
    for where, spec in deploy.cluster_specs():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            (shm,) = [v["emptyDir"] for v in group["template"]["spec"]["volumes"] if v["name"] == "shm"]
            room = _bytes(shm["sizeLimit"])
            yield f"{where} {group.get('groupName', 'head')}", group["rayStartParams"].get("object-store-memory"), room
    node = deploy.compose["services"]["raybd"]
    flags = dict(part[2:].split("=", 1) for part in node["command"] if "=" in part)
    yield "compose.yaml raybd", flags.get("object-store-memory"), _bytes(node["shm_size"])


def _bytes(size: str) -> int:
    return int(size[:-2]) * UNITS[size[-2:]]


def ray_up(deploy: Deploy) -> list[str]:
    """What `docker run` reads as the SSH user is that user's, and on machines made anew it is fetched before."""
    problems = []
    for name, config in deploy.ray_up.items():
        docker, user = config["docker"], config["auth"]["ssh_user"]
        options = [*docker["run_options"], *docker["head_run_options"]]
        files = [option.partition("=")[2] for option in options if option.startswith("--env-file=")]
        problems += [f"{name}.yaml: {file} is not {user}'s" for file in files if not file.startswith(f"/home/{user}/")]
        problems += [f"{name}.yaml: {o} keeps `ray up` from its own choice" for o in options if "--shm-size" in o]
        if config["provider"]["type"] == "aws":
            volumes = [option.split("=")[1].split(":")[0] for option in options if option.startswith("--volume=")]
            problems += [f"{name}.yaml: {problem}" for problem in _unfetched(config, files, volumes)]
    return problems


def _unfetched(config: dict[str, Any], files: list[str], volumes: list[str]) -> Iterator[str]:
    """On AWS a fresh machine has nothing; the secrets come to the head alone."""
    head = _touched(config.get("initialization_commands", []))
    yield from (f"the head never fetches {path}" for path in [*files, *volumes] if path not in head)
    for name, kind in config["available_node_types"].items():
        if name == config["head_node_type"]:
            continue
        # Without commands of its own a machine runs the head's.
        worker = _touched(kind.get("initialization_commands", config.get("initialization_commands", [])))
        yield from (f"{name} never fetches {path}" for path in volumes if path not in worker)
        yield from (f"{name} fetches {path}" for path in files if path in worker)
        if "IamInstanceProfile" not in kind["node_config"]:
            yield f"{name} has no role to fetch by"


def _touched(commands: list[str]) -> set[str]:
    """The last words of commands: where something is fetched to."""
    return {shlex.split(command)[-1] for command in commands if "aws " in command}


def runs(deploy: Deploy) -> list[str]:
    """No job names its run folder's place, which would count for more than the study's; the image's own is mounted."""
    place = f"{re.findall(r'^WORKDIR (.*)$', deploy.text('Dockerfile'), flags=re.MULTILINE)[-1].rstrip('/')}/runs"
    heads = [
        (where, spec["headGroupSpec"]["template"]["spec"]["containers"][0]) for where, spec in deploy.cluster_specs()
    ]
    mounted = {where: [mount["mountPath"] for mount in container["volumeMounts"]] for where, container in heads}
    mounted["compose.yaml"] = [volume.split(":")[1] for volume in deploy.compose["services"]["raybd"]["volumes"]]
    jobs = [deploy.job["spec"]["entrypoint"], *(line for line in deploy.commands() if "raybd-job" in line)]
    return [
        *(f"{where}: nothing is mounted at {place}" for where, paths in mounted.items() if place not in paths),
        *(f"{job}: names the run folder's place" for job in jobs if "--runs" in job),
    ]
