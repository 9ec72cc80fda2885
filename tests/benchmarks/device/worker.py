"""A process of its own on the device: reads job numbers from its input, one a line, and answers each with JSON."""

import json
import sys
from pathlib import Path

from raybd.registry import as_json
from tests.benchmarks.device.bench import Bench
from tests.benchmarks.device.plain import trained


def main() -> None:
    """Serve until the input ends."""
    bench = Bench.load(Path(sys.argv[1]))
    bench.view.compute.apply()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(as_json(trained(bench, bench.job(int(line))))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
