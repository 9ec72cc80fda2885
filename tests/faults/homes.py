"""A user's folder whose network misbehaves on demand, and the `raybd` processes that are started in it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raybd.search.opening import JOURNAL
from raybd.settings import StudySettings
from tests.studies import study

ROOT = Path(__file__).parents[2]
CLI = "from raybd.cli import main; main()"
ORDER = "fault.txt"
NETS = '''
"""The digits network, which does what fault.txt says in the next training step, once in all processes together."""
import os
import resource
import signal
import time
from pathlib import Path

import torch
from torch import nn

from raybd.architectures import small_convnet

ORDER = Path(__file__).parent / "fault.txt"


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(3600)


def memory():
    """No more address space than is used, as far as the step below can tell."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, before[1]))
    try:
        torch.ones(2**30).sum()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def no_memory():
    raise MemoryError("no memory for a list")


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = small_convnet(classes, 1)

    def forward(self, x):
        out = self.body(x)
        if self.training and ORDER.exists():
            return out * self.befallen()
        return out

    def befallen(self):
        mine = ORDER.with_suffix(f".{os.getpid()}")
        try:
            ORDER.rename(mine)
        except FileNotFoundError:
            return 1.0
        word = mine.read_text()
        if word == "nan":
            return float("nan")
        globals()[word]()
        return 1.0
'''


@dataclass(frozen=True)
class Home:
    """A folder with a study of digits, its space, its network, and a run folder with the planted suspect."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def run(self) -> Path:
        return self.runs / "tiny"

    @property
    def journal(self) -> Path:
        return self.run / "search" / JOURNAL

    def settings(self, **changes: Any) -> StudySettings:
        """The study with changes, also written to `study.yaml`."""
        mine = {"model": {"name": None, "factory": "nets:Net", "arguments": {"classes": 10}}, "references": []}
        (self.folder / "nets.py").write_text(NETS, encoding="utf-8")
        settings = study(self.folder, **mine, **changes)
        text = yaml.safe_dump(settings.resolved(), sort_keys=False)
        (self.folder / "study.yaml").write_text(text, encoding="utf-8")
        return settings

    def order(self, word: str) -> None:
        """Have the next training step, whoever makes it, do what `word` says in NETS."""
        draft = self.folder / "fault.draft"
        draft.write_text(word, encoding="utf-8")
        draft.rename(self.folder / ORDER)

    @property
    def befell(self) -> bool:
        """Whether what was ordered has happened."""
        return not (self.folder / ORDER).exists()

    def raybd(self, *arguments: str, code: str = CLI, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `raybd VERB study.yaml ...` to its end."""
        command = _command(code, arguments)
        return subprocess.run(
            command, cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=seconds, check=False
        )

    @contextlib.contextmanager
    def begun(self, *arguments: str, code: str = CLI) -> Iterator[subprocess.Popen[str]]:
        """Start it in a session of its own, whose every process is gone when the block ends."""
        driver = subprocess.Popen(
            _command(code, arguments), cwd=self.folder, env=_environment(), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield driver
        finally:
            kill(driver)

    def ended(self) -> int:
        """How many trials the journal says have ended."""
        return self.written('"outcome"')

    def written(self, word: str = "\n") -> int:
        """How often the journal holds a word; how many lines by default."""
        return self.journal.read_text(encoding="utf-8", errors="replace").count(word) if self.journal.is_file() else 0

    def card(self, word: str) -> Any:
        return json.loads((self.run / word / "card.json").read_text(encoding="utf-8"))


def kill(driver: subprocess.Popen[str]) -> None:
    """SIGKILL a driver and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()


def _command(code: str, arguments: tuple[str, ...]) -> list[str]:
    verb, *more = arguments
    return [sys.executable, "-c", code, verb, "study.yaml", *more]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def wait_for(happened: Callable[[], bool], seconds: float = 400) -> bool:
    """Wait until something is true; False if it was not in time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if happened():
            return True
        time.sleep(0.01)
    return False
