"""The demo with five seeds, and with the paper's values in place of the search.

    python tests/benchmarks/demo_seeds.py --seeds 0 1 2 3 4

Seed s is that of the split, the training, the search and every trial. For each seed the whole flow runs; then the
search is replaced by one trial at the paper's values, and the demo's own check must fail. The figures go to
tests/benchmarks/results/demo_seeds.json; the exit status is 1 if a seed misses what the README claims.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from raybd import pipeline
from raybd.artifacts import GateRefused, NothingFeasible
from raybd.defenses import PRESETS
from raybd.registry import as_json
from raybd.settings import load_study, parse_study
from raybd.stages.run_folder import environment

RESULTS = Path(__file__).parent / "results" / "demo_seeds.json"
FIXED = ("momentum", "weight_decay", "batch_size", "ramp_up_steps", "ramp_down_steps", "clean_fraction")
NARROW = 1e-6
"""A space needs a range; this one is as narrow, around the paper's values, as to be none."""


def paper_space() -> dict[str, Any]:
    """Return a space that holds the paper's values and nothing else worth the name."""
    paper = as_json(PRESETS["super_fine_tuning"]["paper"])
    searched = {k: v for k, v in paper.items() if k not in FIXED and k != "epochs"}
    ranges = {k: {"type": "float", "low": v, "high": v * (1 + NARROW)} for k, v in searched.items()}
    fixed = {k: paper[k] for k in (*FIXED, "epochs")}
    return {"defense": "super_fine_tuning", "fixed": fixed, "search": ranges, "first": [searched]}


def measure(seed: int, runs: Path, executor: str) -> dict[str, Any]:
    """Run the demo with one seed; return how it ended and its rates on the test split."""
    ending = _run(_study(seed, executor, {}), runs)
    summary = json.loads((runs / f"demo-{seed}" / "summary.json").read_text(encoding="utf-8"))
    space = runs / "paper_space.yaml"
    space.write_text(yaml.safe_dump(paper_space()), encoding="utf-8")
    changed = {"name": f"demo-{seed}-paper", "space": str(space.absolute())}
    paper = _run(_study(seed, executor, changed, trials=1), runs)
    rows = {"suspect": summary["suspect"], **(summary["references"] or {}), "selected": summary["selected"]}
    rates = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    kept = {name: {rate: row[rate] for rate in rates} for name, row in rows.items() if row}
    return {
        "seed": seed,
        "ending": ending,
        "with_the_papers_values": paper,
        "seconds": summary["search"]["seconds"],
    } | kept


def _study(seed: int, executor: str, changes: dict[str, Any], trials: int | None = None) -> Any:
    demo = load_study("demo")
    study = demo.resolved() | {"name": f"demo-{seed}"} | changes
    study["data"] = study["data"] | {"seed": seed}
    study["search"] = study["search"] | {"seed": seed} | ({"trials": trials} if trials else {})
    study["resources"] = study["resources"] | {"executor": executor}
    return parse_study(study, folder=demo.folder)


def _run(study: Any, runs: Path) -> str:
    try:
        pipeline.run(study, runs=runs)
    except (NothingFeasible, GateRefused) as error:
        return f"{type(error).__name__}: {error}"
    return "promoted"


def holds(result: dict[str, Any]) -> bool:
    """Whether a seed keeps the README's claim: ASR from 90 % or more to 5 % or less, for 3 points at most."""
    if result["ending"] != "promoted" or result["with_the_papers_values"] == "promoted":
        return False
    before, after = result["suspect"], result["selected"]
    drop = before["clean_accuracy"]["rate"] - after["clean_accuracy"]["rate"]
    low = after["attack_success_rate"]["rate"] <= 0.05
    return before["attack_success_rate"]["rate"] >= 0.9 and low and drop <= 0.03


def main() -> int:
    """Measure every seed; the results file grows seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--executor", default="ray")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in options.seeds:
        results.append(measure(seed, options.runs, options.executor))
        verdict = "holds" if holds(results[-1]) else "DOES NOT HOLD"
        sys.stdout.write(f"seed {seed}: {verdict}: {json.dumps(results[-1])}\n")
        sys.stdout.flush()
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(
            json.dumps({"environment": environment(), "seeds": results}, indent=1) + "\n", encoding="utf-8"
        )
    return 0 if all(holds(result) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
