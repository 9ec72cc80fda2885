"""Measure the paper's attacks on standalone models: planted, undefended, and against every way of fine-tuning.

    python -m tests.benchmarks.paper_attacks fashion_mnist WORK --images FASHION_MNIST.npz
    python -m tests.benchmarks.paper_attacks cifar10 WORK --images CIFAR10.npz

The .npz holds x_train, y_train, x_test, y_test; 21,000 stratified training images are taken of it, 20,000 for the
attacker and 1,000 for the defender, and the whole test part. A cell is one attack; what is done of it is kept in WORK
and not done again, and its figures go to tests/benchmarks/results/paper/. One process of one thread: run the two data
sets side by side on two cores.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from raybd.registry import BadInput, read_json, write_json
from raybd.settings import StudySettings
from raybd.splits import stratified_order
from raybd.stages.run_folder import environment
from raybd.stages.suspects import NoBackdoor
from tests.benchmarks import paper_cells as cells

RESULTS = Path(__file__).parent / "results" / "paper"
TRAIN_IMAGES = 20_000


def subset(source: Path, to: Path) -> None:
    """Write the stratified part of `source` that the cells use, unless it is there."""
    if to.is_file():
        return
    with np.load(source, allow_pickle=False) as arrays:
        labels = torch.from_numpy(arrays["y_train"].astype(np.int64))
        rows = stratified_order(labels, seed=0)[: TRAIN_IMAGES + cells.CLEAN_IMAGES].sort().values.numpy()
        to.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: arrays[name] for name in ("x_test", "y_test")}
        np.savez(to, x_train=arrays["x_train"][rows], y_train=arrays["y_train"][rows], **kept)


def say(text: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def measure(settings: StudySettings, work: Path, cell: str, *, defend: bool) -> None:
    """Do what is left of one cell, named DATA/ATTACK."""
    home, file = work / cell, RESULTS / f"{cell}.json"
    card = read_json(file) if file.is_file() else {"environment": environment(), "study": settings.resolved()}
    if card["study"] != settings.resolved():
        raise BadInput(f"{file}: measured with another study; move it away, and {home}, to begin anew")
    todo = {"undefended"} | ({"defended"} if defend else set())
    if todo <= card.keys():
        return
    suspect = cells.kept(settings, home / "inject")
    if suspect is None:
        try:
            suspect = cells.plant(settings, home / "inject", home.parent / "twins")
        except NoBackdoor as error:
            write_json(file, card | {"refused": str(error)})
            say(f"{settings.name}: {error}")
            return
    card.pop("refused", None)
    if "undefended" not in card:
        card["undefended"] = cells.undefended(suspect)
        write_json(file, card)
        rows = card["undefended"]["rows"]
        say(f"{settings.name}: planted, " + ", ".join(f"{n} {_rates(row)}" for n, row in rows.items()))
    if "defended" in todo - card.keys():
        card["defended"] = cells.defended(settings, suspect, home, say)
        write_json(file, card)
        say(f"{settings.name}: " + ", ".join(f"{n} {_rates(r)}" for n, r in card["defended"]["rows"].items()))


def _rates(row: dict[str, dict[str, float]]) -> str:
    return f"{row['clean_accuracy']['rate']:.3f}/{row['attack_success_rate']['rate']:.3f}"


def main() -> None:
    """Measure the named attacks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=cells.DATA)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="the whole data set as an .npz")
    parser.add_argument("--attacks", nargs="+", choices=cells.ATTACKS, default=list(cells.ATTACKS))
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--plant-only", action="store_true", help="undefended figures only")
    options = parser.parse_args()
    options.work = options.work.absolute()
    subset(options.images, options.work / "images" / f"{options.data}.npz")
    for attack in options.attacks:
        settings = cells.study(options.data, attack, options.work / "images", trials=options.trials)
        defend = attack in cells.PAPERS and not options.plant_only
        measure(settings, options.work, f"{options.data}/{attack}", defend=defend)


if __name__ == "__main__":
    main()
