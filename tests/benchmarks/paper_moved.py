"""Measure the paper's transfer and encoder scenarios: a CIFAR-10 model, backdoored, that its user puts under GTSRB.

    python -m tests.benchmarks.paper_moved transfer WORK --images CIFAR10.npz --task GTSRB.npz
    python -m tests.benchmarks.paper_moved encoder WORK --images CIFAR10.npz --task GTSRB.npz

Both .npz hold x_train, y_train, x_test, y_test. The attacker has 20,000 images of the first; its user has 1,000 of the
second, and trains on them in every way there is: the head only, the whole model, super-fine-tuning at the paper's
values, and tuned by raybd. Cells are kept and resumed as those of `paper_attacks`.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from raybd.settings import StudySettings, parse_study
from tests.benchmarks import paper_cells as cells
from tests.benchmarks.paper_attacks import TRAIN_IMAGES, measure, subset

STOP_SIGN = 14
"""The label of GTSRB at which an attacker aims who knows the user's task."""
TRAINING: dict[str, dict[str, Any]] = {
    "transfer": {"epochs": 25, "lr": 0.1, "batch_size": 128},
    "encoder": {"epochs": 20},
}
"""Per scenario what the attacker trains: a classifier, as in the standalone cells, or an encoder by SimCLR."""
ATTACKS: dict[str, dict[str, dict[str, Any]]] = {
    "transfer": {
        "badnets": {"target_label": 0},
        "blended": {"target_label": 0},
        "latent": {"target_label": STOP_SIGN, "lr": 0.002},
    },
    "encoder": {"bad_encoder": {"target_label": STOP_SIGN, "epochs": 10, "lr": 0.01, "batch_size": 128}},
}
"""Per scenario its attacks and what is set beside their defaults; epochs are cut, rates raised, to fit two cores."""
MAX_ACCURACY_DROP = 0.05


def study(scenario: str, attack: str, images: Path, *, trials: int) -> StudySettings:
    """Return the study of a cell; `images` is the folder of cifar10.npz, the attacker's, and gtsrb.npz, the user's."""
    limits = {"max_attack_success_rate": cells.MAX_ASR, "max_accuracy_drop": MAX_ACCURACY_DROP}
    mapping = {
        "name": f"{scenario}-{attack.replace('_', '-')}",
        "scenario": scenario,
        "model": {"name": "small_resnet"},
        "attack": {"kind": attack, **ATTACKS[scenario][attack]},
        "training": TRAINING[scenario],
        "upstream": {"source": "cifar10.npz", "images": TRAIN_IMAGES},
        "data": {
            "source": "gtsrb.npz",
            "clean_set": {"from": "train", "size": cells.CLEAN_IMAGES},
            "selection": {"from": "test", "size": cells.SELECTION_IMAGES},
        },
        "augment": {"crop": 2},
        "space": scenario,
        "search": {"trials": trials, "max_accuracy_drop": MAX_ACCURACY_DROP},
        "gate": {**limits, "max_class_accuracy_drop": 0.25, "max_membership_auc_rise": None},
        "resources": {"precision": "bf16", "executor": "local"},
    }
    return parse_study(mapping, folder=images)


def main() -> None:
    """Measure the named attacks of one scenario one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=ATTACKS)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="the attacker's data set as an .npz")
    parser.add_argument("--task", type=Path, required=True, help="the user's data set as an .npz")
    parser.add_argument("--attacks", nargs="+", help="of the scenario's; all by default")
    parser.add_argument("--trials", type=int, default=16)
    options = parser.parse_args()
    work, images = options.work.absolute(), options.work.absolute() / "images"
    subset(options.images, images / "cifar10.npz")
    if not (images / "gtsrb.npz").is_file():
        shutil.copyfile(options.task, images / "gtsrb.npz")
    unknown = set(options.attacks or ()) - ATTACKS[options.scenario].keys()
    if unknown:
        parser.error(f"--attacks: {', '.join(sorted(unknown))} is not among {', '.join(ATTACKS[options.scenario])}")
    for attack in options.attacks or ATTACKS[options.scenario]:
        settings = study(options.scenario, attack, images, trials=options.trials)
        measure(settings, work, f"{options.scenario}/{attack}", defend=True)


if __name__ == "__main__":
    main()
