"""How the cost grows: with trials, workers, slots of a cluster, the network, the clean set; of an ask; of memory.

    python -m tests.benchmarks.growth                      # all parts that are not yet in the results
    python -m tests.benchmarks.growth --parts sampler memory --again

Every part runs in a process of its own and goes into the results as it ends. Nothing else may be running.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from raybd.registry import as_json, read_json, write_json
from raybd.stages.run_folder import environment
from tests.benchmarks import growth_sampler, growth_search, growth_training
from tests.benchmarks.growth_fits import table
from tests.benchmarks.growth_sizes import FULL, TINY, Sizes

RESULTS = Path(__file__).parent / "results" / "growth.json"
PARTS: Mapping[str, Callable[[Sizes], dict[str, Any]]] = {
    "trials": growth_search.trials,
    "workers": growth_search.workers,
    "cluster": growth_search.cluster,
    "model": growth_training.model_size,
    "clean_set": growth_training.clean_set,
    "sampler": growth_sampler.measure,
    "memory": growth_search.memory,
}


def measured(name: str, sizes: Sizes) -> dict[str, Any]:
    """Return a part's findings, and what was asked of it."""
    return {**PARTS[name](sizes), "sizes": as_json(sizes)}


def take(names: Sequence[str], sizes: Sizes, results: Path, *, again: bool = False) -> dict[str, Any]:
    """Measure the parts that `results` does not hold in these sizes, or all of `names` again; write each as it ends."""
    found: dict[str, Any] = read_json(results) if results.is_file() else {"parts": {}}
    for name in names:
        if again or found["parts"].get(name, {}).get("sizes") != as_json(sizes):
            # A fresh process: what one part leaves in memory is not counted as the next one's.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                part = alone.submit(measured, name, sizes).result()
            part |= {"environment": environment()}
            found = {"parts": {**found["parts"], name: as_json(part)}}
            write_json(results, found)
        sys.stdout.write("\n".join(table(name, found["parts"][name])) + "\n")
        sys.stdout.flush()
    return found


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure parts that are in the results already")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    take(options.parts, TINY if options.tiny else FULL, options.results, again=options.again)


if __name__ == "__main__":
    main()
