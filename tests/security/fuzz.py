"""Fuzzes every loader for long, and writes down what came of it: `python -m tests.security.fuzz --inputs 100000`.

The property is that of `tests/security/test_fuzz.py`: a valid object or `BadInput`, and nothing done that is watched.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from raybd.registry import BadInput
from tests.security.loaders import LOADERS, Bench
from tests.security.mutate import bent
from tests.security.watch import watched

RESULT = Path(__file__).parent / "results" / "fuzz.json"
LIBRARIES = ("raybd", "torch", "safetensors", "numpy", "pillow", "pyyaml", "pydantic", "optuna", "hypothesis")


def outcome(bench: Bench, random: Random) -> tuple[str, float]:
    """Open one bent file; return `accepted` or `refused`, and the seconds it took.

    Raises:
        AssertionError: if something was done that no loader may do, or a refused file did not stay as it was.
        Exception: whatever a loader raised that is no BadInput.
    """
    path = random.choice(list(bench.good))
    content = bent(random, path, bench.good[path])
    start, word = time.perf_counter(), "accepted"
    with watched(bench.folder) as seen:
        try:
            bench.open(path, content)
        except BadInput:
            word = "refused"
    seconds = time.perf_counter() - start
    done = [each for each in seen if not each.startswith("os.remove")]  # we put the folder back ourselves
    assert not done, f"{path.name}: {done}"
    if word == "refused":
        assert content.startswith(bench.left), f"{path.name}: refused, but changed"
        assert b"\n" not in content[len(bench.left) :].rstrip(b"\n"), f"{path.name}: more than a half line was cut"
    return word, seconds


def fuzz(name: str, inputs: int, number: int, folder: Path) -> dict[str, Any]:
    """Open so many bent files at one loader; return the counts. Raises as `outcome`, with the smallest such input."""
    bench = Bench(LOADERS[name], folder)
    counts: dict[str, Any] = {"inputs": 0, "accepted": 0, "refused": 0, "slowest_seconds": 0.0}
    start = time.perf_counter()

    @seed(number)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**63 - 1))
    def one(number: int) -> None:
        word, seconds = outcome(bench, Random(number))
        counts["inputs"] += 1
        counts[word] += 1
        counts["slowest_seconds"] = round(max(counts["slowest_seconds"], seconds), 3)

    one()
    return {**counts, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--only", choices=LOADERS, nargs="*", default=list(LOADERS))
    parser.add_argument("--to", type=Path, default=RESULT)
    asked = parser.parse_args()
    whole = sum(LOADERS[name].share for name in asked.only)
    found: dict[str, Any] = {"seed": asked.seed, "python": platform.python_version()}
    found["libraries"] = {name: metadata.version(name) for name in LIBRARIES}
    found["loaders"] = {}
    with tempfile.TemporaryDirectory(prefix="raybd-fuzz-") as scratch:
        for name in asked.only:
            # A tenth more: hypothesis leaves out what it has drawn before.
            share = int(1.1 * asked.inputs * LOADERS[name].share / whole)
            found["loaders"][name] = fuzz(name, share, asked.seed, Path(scratch) / name)
            print(name, json.dumps(found["loaders"][name]), file=sys.stderr, flush=True)
    found["inputs"] = sum(each["inputs"] for each in found["loaders"].values())
    found["seconds"] = round(sum(each["seconds"] for each in found["loaders"].values()), 1)
    found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    asked.to.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
