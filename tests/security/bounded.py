"""Opens the whole corpus in a process of its own, with little memory to spare, and tells what that took.

`python -m tests.security.bounded FOLDER` prints JSON: how each case ended, and the seconds and memory it took.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from raybd.registry import BadInput
from tests.security.corpus import cases
from tests.security.loaders import LOADERS, Bench
from tests.security.watch import watched

SPARE = 4 * 2**30
"""So much more address space than after the imports; who asks for more does not get it."""


def _size() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()


def opened(bench: Bench, file: str, content: bytes) -> dict[str, Any]:
    """How one file ended: `refused`, `accepted`, or the name of another exception."""
    path, start, how, said = bench.folder / file, time.perf_counter(), "accepted", ""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with watched(bench.folder) as seen:
        try:
            bench.open(path, content)
        except BadInput as error:
            how, said = "refused", str(error)
        except Exception as error:  # noqa: BLE001 - which is what this is to find out
            how, said = type(error).__name__, str(error)
    return {
        "how": how,
        "said": said[:2000],
        "letters": len(said),
        "seen": [each for each in seen if not each.startswith("os.remove")],
        "kept": bench.left == content,
        "seconds": time.perf_counter() - start,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
    }


def main(folder: Path) -> None:
    benches = {name: Bench(loader, folder / name) for name, loader in LOADERS.items()}
    for bench in benches.values():
        for path, content in bench.good.items():
            bench.open(path, content)  # also so that everything is imported before memory is counted
    resource.setrlimit(resource.RLIMIT_AS, (_size() + SPARE, _size() + SPARE))
    marker = folder / "marker"
    found = {each.id: opened(benches[each.loader], each.file, each.make(marker)) for each in cases()}
    print(json.dumps({"cases": found, "marker": marker.exists()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
