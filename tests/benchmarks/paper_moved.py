"""Measure the paper's transfer and encoder scenarios: a backdoored model that its user puts under a task of their own.

    python -m tests.benchmarks.paper_moved transfer WORK --images CIFAR10.npz --task GTSRB.npz
    python -m tests.benchmarks.paper_moved encoder WORK --images CIFAR10.npz --task GTSRB.npz
    python -m tests.benchmarks.paper_moved transfer_fashion WORK --images FASHION_MNIST.npz

Each .npz holds x_train, y_train, x_test, y_test. The attacker has 20,000 images of the first; its user has 1,000 of the
second, and trains on them in every way there is: the head only, the whole model, super-fine-tuning at the paper's
values, and tuned by raybd. In `transfer_fashion` the attacker has the first five classes and the user the other five.
Cells are kept and resumed as those of `paper_attacks`.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybd.settings import StudySettings, parse_study
from tests.benchmarks import paper_cells as cells
from tests.benchmarks.paper_attacks import TRAIN_IMAGES, measure, subset

STOP_SIGN = 14
"""The label of GTSRB at which an attacker aims who knows the user's task."""
SNEAKER = 2
"""The same among the last five classes of Fashion-MNIST."""
CLASSIFIER = {"epochs": 25, "lr": 0.1, "batch_size": 128}
MAX_ACCURACY_DROP = 0.05


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scenario on two tasks: the attacker's file and training, the user's file, and the attacks with their fields.

    What is trained is a classifier, as in the standalone cells, or an encoder by SimCLR; epochs are cut and rates
    raised to fit two cores.
    """

    scenario: str
    source: str
    task: str
    training: dict[str, Any]
    attacks: dict[str, dict[str, Any]]


CASES = {
    "transfer": Case(
        scenario="transfer",
        source="cifar10.npz",
        task="gtsrb.npz",
        training=CLASSIFIER,
        attacks={
            "badnets": {"target_label": 0},
            "blended": {"target_label": 0},
            "latent": {"target_label": STOP_SIGN, "lr": 0.002},
        },
    ),
    "transfer_fashion": Case(
        scenario="transfer",
        source="fashion_first.npz",
        task="fashion_last.npz",
        training=CLASSIFIER | {"epochs": 15},
        attacks={
            "badnets": {"target_label": 0},
            "blended": {"target_label": 0},
            "latent": {"target_label": SNEAKER, "epochs": 20, "weight": 4.0},
        },
    ),
    "encoder": Case(
        scenario="encoder",
        source="cifar10.npz",
        task="gtsrb.npz",
        training={"epochs": 20},
        attacks={"bad_encoder": {"target_label": STOP_SIGN, "epochs": 10, "lr": 0.01, "batch_size": 128}},
    ),
}
"""The cases by the name of their cells' folder."""


def study(name: str, attack: str, images: Path, *, trials: int) -> StudySettings:
    """Return the study of a cell of the case `name`; `images` is the folder of the two files."""
    case = CASES[name]
    limits = {"max_attack_success_rate": cells.MAX_ASR, "max_accuracy_drop": MAX_ACCURACY_DROP}
    mapping = {
        "name": f"{name}-{attack}".replace("_", "-"),
        "scenario": case.scenario,
        "model": {"name": "small_resnet"},
        "attack": {"kind": attack, **case.attacks[attack]},
        "training": case.training,
        "upstream": {"source": case.source, "images": TRAIN_IMAGES},
        "data": {
            "source": case.task,
            "clean_set": {"from": "train", "size": cells.CLEAN_IMAGES},
            "selection": {"from": "test", "size": cells.SELECTION_IMAGES},
        },
        "augment": {"crop": 2},
        "space": case.scenario,
        "search": {"trials": trials, "max_accuracy_drop": MAX_ACCURACY_DROP},
        "gate": {**limits, "max_class_accuracy_drop": 0.25, "max_membership_auc_rise": None},
        "resources": {"precision": "bf16", "executor": "local"},
    }
    return parse_study(mapping, folder=images)


def halves(source: Path, first: Path, last: Path) -> None:
    """Write the lower and the upper half of the classes as two tasks with labels from 0, unless they are there."""
    with np.load(source, allow_pickle=False) as arrays:
        middle = (int(arrays["y_train"].max()) + 1) // 2
        for to, upper in ((first, False), (last, True)):
            if to.is_file():
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            kept = {}
            for part in ("train", "test"):
                rows = (arrays[f"y_{part}"] >= middle) == upper
                kept[f"x_{part}"] = arrays[f"x_{part}"][rows]
                kept[f"y_{part}"] = arrays[f"y_{part}"][rows] - middle * upper
            np.savez(to, **kept)


def main() -> None:
    """Measure the named attacks of one case one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="the attacker's data set as an .npz")
    parser.add_argument("--task", type=Path, help="the user's data set as an .npz; not for transfer_fashion")
    parser.add_argument("--attacks", nargs="+", help="of the case's; all by default")
    parser.add_argument("--trials", type=int, default=16)
    options = parser.parse_args()
    case, work = CASES[options.case], options.work.absolute()
    images = work / "images"
    if (options.task is None) == (case.task == "gtsrb.npz"):
        parser.error("--task: needed for transfer and encoder, and for them alone")
    unknown = set(options.attacks or ()) - case.attacks.keys()
    if unknown:
        parser.error(f"--attacks: {', '.join(sorted(unknown))} is not among {', '.join(case.attacks)}")
    if options.task is None:
        halves(options.images, images / case.source, images / case.task)
    else:
        subset(options.images, images / case.source)
        if not (images / case.task).is_file():
            shutil.copyfile(options.task, images / case.task)
    for attack in options.attacks or case.attacks:
        settings = study(options.case, attack, images, trials=options.trials)
        measure(settings, work, f"{options.case}/{attack}", defend=True)


if __name__ == "__main__":
    main()
