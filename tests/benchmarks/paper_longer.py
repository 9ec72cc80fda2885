"""Search again, in the space of the longer runs, for suspects that `standalone_short` did not free of their backdoor.

    python -m tests.benchmarks.paper_longer fashion_mnist WORK --attacks blended low_frequency

WORK is that of `paper_attacks`, whose suspects are taken. The space `standalone` goes up to 40 epochs.
"""

import argparse
from pathlib import Path
from typing import Any

from raybd.registry import BadInput, read_json, write_json
from raybd.stages.run_folder import environment
from tests.benchmarks import paper_cells as cells
from tests.benchmarks.paper_attacks import RESULTS, say

SPACE = "standalone"


def main() -> None:
    """Search on each of the named suspects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=cells.DATA)
    parser.add_argument("work", type=Path)
    parser.add_argument("--attacks", nargs="+", required=True, choices=cells.PAPERS)
    parser.add_argument("--trials", type=int, default=32)
    options = parser.parse_args()
    work, file = options.work.absolute(), RESULTS / f"longer_{options.data}.json"
    card: dict[str, Any] = read_json(file) if file.is_file() else {"environment": environment(), "attacks": {}}
    for attack in options.attacks:
        home = work / options.data / attack
        settings = cells.study(options.data, attack, work / "images", trials=options.trials, space=SPACE)
        if attack in card["attacks"]:
            if card["attacks"][attack]["study"] != settings.resolved():
                raise BadInput(f"{file}: {attack} was measured with another study; move it away to begin anew")
            continue
        suspect = cells.kept_or_planted(settings, home / "inject", home.parent / "twins")
        found = cells.defended(settings, suspect, home / "longer", say, rows=())
        card["attacks"][attack] = {"study": settings.resolved(), **found}
        write_json(file, card)
        row = found["rows"]["tuned"]
        rates = row["accuracy_drop"]["value"], row["attack_success_rate"]["rate"]
        say(f"{settings.name}: longer, lost {rates[0]:.3f}, ASR {rates[1]:.3f}")


if __name__ == "__main__":
    main()
