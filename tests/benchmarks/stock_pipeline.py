"""raybd's search against the pipeline a user would otherwise write; ratios are printed last.

    python tests/benchmarks/stock_pipeline.py DATA_FOLDER             # the third party's model: hours
    python tests/benchmarks/stock_pipeline.py                         # the demo's digits
    python tests/benchmarks/stock_pipeline.py [DATA_FOLDER] --quick   # under 20 minutes on two cores

Rows: `stock as written` evaluates clean and triggered selection images after every epoch, as BackdoorBench does;
`stock matched` once, at the end, as raybd does; `raybd PRECISION` for each --precision. All get the same suspect,
splits, slots and settings. Measured: trials per hour on a fixed list of settings, and the seconds to the first feasible
trial (both of the search's limits hold on selection, at the end of the trial) of a real search.

DATA_FOLDER holds what `third_party.py` wants. Each timed search is a process of its own and leaves a file in
WORK/rows; what is there is not measured again, so an interrupted measurement goes on. Figures go to
tests/benchmarks/results/stock_pipeline.json (--quick: stock_pipeline_quick.json). Nothing else should be running.
"""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from raybd.registry import read_json, write_json
from raybd.stages.run_folder import environment
from tests.benchmarks import stock_rows, stock_summary
from tests.benchmarks.stock_cases import Case, cpu_features, digits, gtsrb, plant_digits

RESULTS = Path(__file__).parent / "results"
WRITTEN, MATCHED = "stock as written", "stock matched"
FULL = {"settings": 12, "repeats": 3, "seeds": [0, 1, 2, 3, 4], "budget": 32, "epochs": None}
QUICK = {"settings": 6, "repeats": 1, "seeds": [0], "budget": 12}
QUICK_EPOCHS = {"gtsrb": [2, 4], "digits": [20, 30]}
LEFT_OUT = (
    "--quick leaves out: repeats (one, so no medians of three), all but a few short settings (fixed costs weigh more), "
    "all but one search seed, and the first feasible trial on the third party's model (it is taken on the digits)"
)


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is to be measured: the defaults of the full or the quick run, and what was given instead."""
    chosen: dict[str, Any] = dict(FULL)
    name = "gtsrb" if options.data else "digits"
    if options.quick:
        chosen |= QUICK | {"epochs": QUICK_EPOCHS[name]}
    chosen |= {key: getattr(options, key) for key in FULL if getattr(options, key) is not None}
    feasible = "digits" if options.quick else name
    return {"quick": options.quick, "throughput_on": name, "first_feasible_on": feasible, **chosen}


def contenders(precisions: list[str]) -> dict[str, Callable[..., stock_rows.Row]]:
    """Return the rows by name: what to call for each."""
    stock = {
        WRITTEN: partial(stock_rows.stock, each_epoch=True),
        MATCHED: partial(stock_rows.stock, each_epoch=False),
    }
    return stock | {f"raybd {precision}": partial(stock_rows.raybd, precision=precision) for precision in precisions}


class Measurement:
    """The timed searches of one plan, each kept in a file of `work`/rows."""

    def __init__(self, work: Path, chosen: dict[str, Any], slots: int, results: Path) -> None:
        self._work = work.absolute()
        self._results = results
        self._options = {**chosen, "slots": slots}
        self._rows = self._work / "rows"
        identity = {"options": self._options, "environment": environment()}
        held = self._work / "plan.json"
        if held.is_file() and read_json(held) != identity:
            raise SystemExit(f"{held}: another plan, or another machine, was measured here; use another --work")
        write_json(held, identity)

    def take(self, part: str, name: str, number: int, call: Callable[..., stock_rows.Row], case: Case) -> None:
        """Time one search unless its file is there, and write the results anew."""
        path = self._rows / part / name / f"{number}.json"
        if not path.is_file():
            chosen, listed = self._options, part == "throughput"
            run = partial(
                call,
                case,
                trials=chosen["settings"] if listed else chosen["budget"],
                slots=chosen["slots"],
                seed=number,
                until_feasible=not listed,
                folder=self._work / "runs" / part / name.replace(" ", "-") / str(number),
            )
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                write_json(path, process.submit(run).result())
        row = read_json(path)
        _say(f"{part}, {name}, {number}: {len(row['trials'])} trials, {row['seconds']:.0f} s")
        write_json(self._results, self.document())

    def document(self) -> dict[str, Any]:
        """Return everything measured so far."""
        parts: dict[str, dict[str, list[stock_rows.Row]]] = {"throughput": {}, "first_feasible": {}}
        for path in sorted(self._rows.glob("*/*/*.json"), key=lambda p: (p.parent, int(p.stem))):
            parts[path.parent.parent.name].setdefault(path.parent.name, []).append(read_json(path))
        rows = parts["throughput"]
        ours = [name for name in rows if name.startswith("raybd")] if MATCHED in rows else []
        document: dict[str, Any] = {
            "environment": environment(),
            "cpu_features": cpu_features(),
            "options": self._options,
            **parts,
            "agreement": {f"{name} - {MATCHED}": stock_summary.agreement(rows, name, MATCHED) for name in ours},
            "left_out": LEFT_OUT if self._options["quick"] else "",
        }
        return {**document, "ratios": stock_summary.ratios(document)}


def _case(name: str, data: Path | None, folder: Path) -> Case:
    if name == "gtsrb":
        assert data is not None
        return gtsrb(data, folder)
    plant_digits(folder)
    return digits(folder)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the third party's model; the digits without")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, help="default: runs/stock_pipeline or, with --quick, ..._quick")
    parser.add_argument("--results", type=Path, help="file for the figures")
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=["auto", "fp32", "bf16"])
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)), help="trials at once")
    parser.add_argument("--settings", type=int, help=f"length of the fixed list: {FULL['settings']}")
    parser.add_argument("--epochs", type=int, nargs=2, metavar=("LOW", "HIGH"), help="instead of the list's range")
    parser.add_argument("--repeats", type=int, help="of the fixed list, for each row")
    parser.add_argument("--seeds", type=int, nargs="*", help="of the searches for a feasible trial")
    parser.add_argument("--budget", type=int, help="trials after which such a search gives up")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, row by row, and print the report."""
    options = _options()
    chosen, suffix = plan(options), "_quick" if options.quick else ""
    work = options.work or Path(f"runs/stock_pipeline{suffix}")
    results = options.results or RESULTS / f"stock_pipeline{suffix}.json"
    measurement = Measurement(work, chosen, options.slots, results)
    wanted = {chosen["throughput_on"], chosen["first_feasible_on"]}
    cases = {name: _case(name, options.data, work / name) for name in sorted(wanted)}
    listed = cases[chosen["throughput_on"]].narrowed(chosen["epochs"]).listed(chosen["settings"])
    rows = contenders(options.precision)
    for number in range(chosen["repeats"]):
        for name, call in rows.items():
            measurement.take("throughput", name, number, call, listed)
    for seed in chosen["seeds"]:
        for name, call in rows.items():
            measurement.take("first_feasible", name, seed, call, cases[chosen["first_feasible_on"]])
    _say("\n".join(stock_summary.lines(measurement.document())))


if __name__ == "__main__":
    main()
