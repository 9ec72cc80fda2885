"""Measure what raybd says of a suspect that was never poisoned, and what the treatment costs it.

    python -m tests.benchmarks.paper_clean fashion_mnist WORK
    python -m tests.benchmarks.paper_clean cifar10 WORK

The suspect is the never-poisoned twin that `paper_attacks` left in WORK, handed in as a user would hand in a model they
distrust: with the trigger of BadNets, which it does not know. The whole flow runs, with the cells' limits and space.
"""

import argparse
from pathlib import Path
from typing import Any

from raybd import pipeline
from raybd.artifacts import GateRefused, NothingFeasible, Suspect
from raybd.defenses import reference
from raybd.registry import BadInput, as_json, read_json, write_json
from raybd.settings import StudySettings, parse_study
from raybd.stages import preparation
from raybd.stages.execution import LocalExecutor
from raybd.stages.run_folder import environment
from tests.benchmarks import paper_cells as cells
from tests.benchmarks.paper_attacks import RESULTS, say


def study(data: str, images: Path, weights: Path, *, trials: int) -> StudySettings:
    """Return the study of a user who was told that the model in `weights` carries BadNets' trigger."""
    planted = cells.study(data, "badnets", images, trials=trials)
    assert planted.attack is not None
    whole = {k: v for k, v in planted.resolved().items() if k not in ("model", "attack", "training")}
    trigger = planted.attack.trigger()
    assert trigger is not None
    return parse_study(
        whole
        | {
            "name": f"{data}-clean",
            "suspect": {"name": "small_resnet", "weights": str(weights)},
            "trigger": {"kind": trigger.kind, **as_json(trigger)},
            "data": whole["data"] | {"members": {"from": "train"}},
            "references": [],
            "tracking": {},
        },
        folder=images,
    )


def main() -> None:
    """Run the whole flow on one twin and keep what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=cells.DATA)
    parser.add_argument("work", type=Path)
    parser.add_argument("--trials", type=int, default=32)
    options = parser.parse_args()
    work = options.work.absolute()
    twin = cells.twin_file(
        cells.study(options.data, "badnets", work / "images", trials=1), work / options.data / "twins"
    )
    if not twin.is_file():
        raise BadInput(f"{twin}: no twin; run paper_attacks first")
    settings = study(options.data, work / "images", twin, trials=options.trials)
    ended = "promoted"
    try:
        pipeline.run(settings, runs=work / "clean", on_stage=say)
    except (NothingFeasible, GateRefused) as error:
        ended = f"{type(error).__name__}: {error}"
    home = work / "clean" / settings.name
    summary: dict[str, Any] = read_json(home / "summary.json")
    suspect = Suspect.load(home / "adopt", preparation.bench(settings, home / "adopt"))
    executor = LocalExecutor(preparation.search_view(suspect), settings)
    paper = {"paper": reference(cells.FIXED["paper"])}
    rows = cells.measured(suspect, paper, home / "rows", executor, say)
    kept = {key: summary[key] for key in ("verdict", "warnings", "selected", "search", "select", "checks")}
    write_json(
        RESULTS / f"clean_{options.data}.json", {"environment": environment(), "ended": ended, "rows": rows, **kept}
    )
    say(f"{settings.name}: {summary['verdict']['sentence']}")


if __name__ == "__main__":
    main()
