"""Runs a test's script in a process of its own, which may start the Ray cluster that it needs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script: str, folder: Path, *arguments: str, timeout: float) -> None:
    """Run a script with `folder` and the arguments, in an environment that names no cluster; it must end well."""
    file = folder / "script.py"
    file.write_text(script, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, file, folder, *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=timeout)
