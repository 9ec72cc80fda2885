"""Leave one attack out: the setting that is best on the other attacks, applied to this one, for each data set.

    python -m tests.benchmarks.paper_others fashion_mnist WORK --images FASHION_MNIST.npz

It is what a defender who does not know the trigger can do. Among all trials of the other attacks' searches the five
that look best (the larger of ASR / limit and drop / limit on selection) are rerun on every other suspect; the lowest
mean ASR with every drop inside its limit is applied to the suspect left out, with three seeds. WORK is that of
`paper_attacks`, whose cells come first; reruns are kept there too. Choices are made on selection, figures on test.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from raybd.defenses import Defense
from raybd.evaluation.assess import Subject, examine
from raybd.registry import as_json, digest_of, read_json, write_json
from raybd.search.records import Job, Outcome
from raybd.stages import preparation
from raybd.stages.assessing import subject_of
from raybd.stages.execution import LocalExecutor
from raybd.stages.jobs import run_kept
from raybd.stages.run_folder import environment
from raybd.suspect import Suspect
from tests.benchmarks import paper_cells as cells
from tests.benchmarks.paper_attacks import RESULTS, say, subset

BEST = 5
TRIALS = 32
"""Of the cells' searches: it is part of the study that they were planted for."""
Cells = dict[str, dict[str, Any]]


def best_of_others(left_out: str, found: Cells, limits: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the settings of the `BEST` trials of all searches but that of `left_out`, best first, none twice."""
    trials = [t for name, cell in found.items() if name != left_out for t in cell["defended"]["trials"]]
    whole = [t for t in trials if not t["collapsed"] and t["attack_success_rate"] is not None]
    asr, drop = limits
    ordered = sorted(whole, key=lambda t: max(t["attack_success_rate"] / asr, t["accuracy_drop"] / drop))
    chosen: dict[str, dict[str, Any]] = {}
    for trial in ordered:
        chosen.setdefault(digest_of(trial["setting"]), trial["setting"])
    return list(chosen.values())[:BEST]


def choose(outcomes: dict[str, list[Outcome]], max_drop: float) -> str | None:
    """Return the key of the setting with the lowest mean ASR whose every drop is inside the limit; None: there is none.

    Args:
        outcomes: per setting its outcomes on the other suspects.
        max_drop: of accuracy, as a fraction.
    """
    allowed = {}
    for key, each in outcomes.items():
        drops = [o.accuracy_drop.value for o in each if o.accuracy_drop is not None]
        rates = [o.attack_success_rate.rate for o in each if o.attack_success_rate is not None]
        if len(drops) == len(rates) == len(each) and max(drops) <= max_drop:
            allowed[key] = statistics.mean(rates)
    return min(allowed, key=lambda key: allowed[key]) if allowed else None


class Suspects:
    """The suspects of one data set, planted again where they are gone, and what was run on them."""

    def __init__(self, data: str, work: Path, attacks: list[str]) -> None:
        self._twins = work / data / "twins"
        self._homes = {attack: work / data / attack for attack in attacks}
        self.settings = {a: cells.study(data, a, work / "images", trials=TRIALS) for a in attacks}
        self.suspects: dict[str, Suspect] = {}
        self._executors: dict[str, LocalExecutor] = {}

    def run(self, attack: str, defense: Defense, seeds: int) -> tuple[list[Job], list[Outcome]]:
        """Return the runs of a defense on the suspect of `attack`; those that were done before are taken from disk."""
        if attack not in self.suspects:
            home, settings = self._homes[attack] / "inject", self.settings[attack]
            self.suspects[attack] = cells.kept_or_planted(settings, home, self._twins)
            view = preparation.search_view(self.suspects[attack])
            self._executors[attack] = LocalExecutor(view, self.settings[attack])
        folder = self._homes[attack] / "others" / digest_of(as_json(defense))[:12]
        jobs = cells.jobs_of(defense, folder, seeds)
        return jobs, run_kept(jobs, self._executors[attack])


def measure(left_out: str, found: Cells, bench: Suspects, max_drop: float) -> dict[str, Any]:
    """Choose on the other suspects, apply to the one left out, and return its row."""
    space = bench.settings[left_out].load_space()
    options = best_of_others(left_out, found, (cells.MAX_ASR, max_drop))
    outcomes: dict[str, list[Outcome]] = {}
    for index, setting in enumerate(options):
        others = [name for name in found if name != left_out]
        outcomes[str(index)] = [bench.run(name, space.build(setting), 1)[1][0] for name in others]
        say(f"without {left_out}: setting {index + 1} of {len(options)} rerun on {len(others)} suspects")
    chosen = choose(outcomes, max_drop)
    if chosen is None:
        return {"chosen": None, "row": None}
    setting = options[int(chosen)]
    defense = space.build(setting)
    row = subject_of(defense, *bench.run(left_out, defense, cells.SEEDS["tuned"]))
    suspect = bench.suspects[left_out]
    subjects = {"suspect": Subject(states=(suspect.state,)), "others": row}
    seen = {name: as_json(each.row) for name, each in examine(suspect.test_view(), subjects).items()}
    return {"chosen": setting, "suspect": seen["suspect"]["attack_success_rate"], "row": seen["others"]}


def main() -> None:
    """Leave out each attack whose search is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=cells.DATA)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="the whole data set as an .npz")
    options = parser.parse_args()
    work = options.work.absolute()
    subset(options.images, work / "images" / f"{options.data}.npz")
    files = {attack: RESULTS / options.data / f"{attack}.json" for attack in cells.PAPERS}
    read = {attack: read_json(path) for attack, path in files.items() if path.is_file()}
    found = {attack: cell for attack, cell in read.items() if "defended" in cell}
    bench = Suspects(options.data, work, list(found))
    max_drop = cells.DATA[options.data]["max_accuracy_drop"]
    rows: dict[str, Any] = {}
    for left_out in found:
        rows[left_out] = measure(left_out, found, bench, max_drop)
        write_json(RESULTS / f"others_{options.data}.json", {"environment": environment(), "left_out": rows})


if __name__ == "__main__":
    main()
