"""The run folder: one folder per word of the flow, owned by one study."""

import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from raybd.artifacts import CARD
from raybd.files import write_whole
from raybd.registry import BadInput, read_card, write_json
from raybd.settings import StudySettings
from raybd.stages.cards import load_card, load_study

STUDY = "study.json"
RESOLVED = "study.yaml"
MADE_FROM = {
    "select": ("search", "study_digest"),
    "assess": ("select", "weights_digest"),
    "promote": ("assess", "weights_digest"),
}
"""Which stage each is made from, and under which key its card says from what."""
PACKAGES = ("raybd", "torch", "torchvision", "numpy", "ray", "optuna", "mlflow")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """`runs/NAME` of one study. The folders in it are the words of the flow."""

    path: Path

    @classmethod
    def open(cls, settings: StudySettings, runs: Path, *, create: bool) -> "RunFolder":
        """Return the run folder of a study; make it if `create` says so.

        Raises:
            BadInput: if it holds a different study, or is not there and must not be made. It is left as it was.
        """
        path = (runs / settings.name).absolute()
        if (path / STUDY).is_file():
            _check_owner(path, settings)
        elif path.exists() and not all(inner.name.startswith(f".{STUDY}.") for inner in path.iterdir()):
            raise BadInput(f"{path}: this folder is not empty and holds no raybd study; use another --runs or name")
        elif not create:
            raise BadInput(f"{path}: no such run; `raybd run` or `raybd inject`/`adopt` makes it")
        folder = cls(path=path)
        if create:
            folder._own(settings)
        return folder

    def _own(self, settings: StudySettings) -> None:
        if not (self.path / STUDY).is_file():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(self.path / STUDY, {"name": settings.name, "identity": settings.identity(), "created": now})
        write_whole(self.path / RESOLVED, yaml.safe_dump(settings.resolved(), sort_keys=False))

    def stage(self, word: str) -> Path:
        """Return the folder of a stage."""
        return self.path / word

    def has(self, word: str) -> bool:
        """Whether a stage has left its card."""
        return (self.stage(word) / CARD).is_file()

    def card(self, word: str) -> Any:
        """Return a stage's card; None if it has not run, or what it was made from has changed since."""
        return load_card(self.stage(word), word) if self.fresh(word) else None

    def fresh(self, word: str) -> bool:
        """Whether a stage's card is there and was made from what the stage before it holds now."""
        if not self.has(word):
            return False
        if word not in MADE_FROM:
            return True
        before, key = MADE_FROM[word]
        if not self.fresh(before):
            return False
        made_from = read_card(self.stage(word) / CARD).get(key)
        if before == "search":
            return bool(made_from == load_study(self.stage(before)).digest)
        return bool(made_from == load_card(self.stage(before), before).get(key))

    def require(self, word: str) -> Path:
        """Return the folder of a stage that another needs.

        Raises:
            BadInput: if it has not run, or was made from what has changed since; in words, with what to type.
        """
        if not self.has(word):
            raise BadInput(f"{self.path}: no {word} yet; `raybd {word}` comes first")
        if not self.fresh(word):
            raise BadInput(
                f"{self.path}: {word} was made from what has changed since; `raybd {word}` again comes first"
            )
        return self.stage(word)

    @property
    def suspect(self) -> Path:
        """The folder of the suspect, injected or adopted.

        Raises:
            BadInput: if there is none yet.
        """
        for word in ("inject", "adopt"):
            if self.has(word):
                return self.stage(word)
        raise BadInput(f"{self.path}: no suspect yet; `raybd inject` or `raybd adopt` brings one")


def _check_owner(path: Path, settings: StudySettings) -> None:
    if read_card(path / STUDY, "identity")["identity"] != settings.identity():
        raise BadInput(
            f"{path}: this run folder holds a different study (or an earlier version of this one: everything but "
            "search.trials, tracking, cluster, resources.workers, .executor and .trial_timeout_s must stay as it was); "
            "rename the study or use another --runs"
        )


def environment() -> dict[str, Any]:
    """Return versions and hardware, as the card and the report give them."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch_build": "cuda " + torch.version.cuda if torch.version.cuda else "cpu",
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if sys.platform.startswith("linux") and info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
