"""Plant the standalone attacks at BackdoorBench's scale: PreAct-ResNet18 on all of CIFAR-10, with torch alone.

    python -m tests.benchmarks.plant_large CIFAR10.npz OUT --gpu

Needs neither ray nor optuna nor mlflow, so a bare GPU machine can run it. An attack whose OUT/ATTACK.json is there is
not planted again; the never-poisoned twin, OUT/twin.safetensors, is trained once. Weights of the suspects are kept in
OUT only with --keep. Each file holds the figures on the 10,000 test images beside those of BackdoorBench's leaderboard.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from raybd.attacks import ATTACKS, Attack, Workshop
from raybd.data import Augment, load_source
from raybd.evaluation.metrics import read
from raybd.evaluation.twin import check_twin
from raybd.imagesets import Source
from raybd.models import Architecture, Classifier
from raybd.registry import as_json, build, describe, write_json
from raybd.training import Compute, Epoch, Recipe
from raybd.triggers import Trigger
from raybd.weights import save_weights, state_of
from tests.benchmarks.twins import kept_twin

SEED = 0
ORDER = ("badnets", "blended", "wanet", "input_aware", "low_frequency", "sig", "label_consistent", "trojan")
CHANGES: dict[str, dict[str, Any]] = {"sig": {"poison_ratio": 0.1}, "label_consistent": {"poison_ratio": 0.1}}
"""What differs from an attack's defaults: at 10 % BackdoorBench poisons every image of the target class."""
PUBLISHED = {
    "badnets": (91.3, 95.0),
    "blended": (93.5, 99.9),
    "wanet": (91.2, 89.7),
    "input_aware": (90.7, 98.3),
    "low_frequency": (93.2, 99.3),
    "sig": (84.5, 98.3),
    "label_consistent": (84.6, 99.9),
    "trojan": (93.4, 100.0),
}
"""BackdoorBench's leaderboard (CIFAR-10, 10 % poisoning, PreAct-ResNet18, no defense): C-Acc and ASR in percent."""


def workshop(source: Source, options: argparse.Namespace) -> Workshop:
    """Return the attacker's bench with BackdoorBench's recipe: SGD 0.01, batch 128, cosine, crop and flip."""
    architecture = Architecture(name=options.model, classes=source.train.classes, shape=source.train.shape)
    return Workshop(
        train=source.train,
        fresh_model=architecture.build,
        recipe=Recipe(epochs=options.epochs, lr=0.01, batch_size=128),
        augment=Augment(crop=4, flip=True),
        compute=Compute.detect(gpu=options.gpu),
        on_progress=say,
    )


def say(word: str, epoch: Epoch) -> None:
    """Print how far a training is, and what the rest of it will take."""
    left = epoch.seconds / epoch.steps * (epoch.total - epoch.steps)
    sys.stdout.write(f"{word}: step {epoch.steps} of {epoch.total}, loss {epoch.loss:.3f}, {left:.0f} s left\n")
    sys.stdout.flush()


def measure(attack: Attack, bench: Workshop, source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Plant one attack and return its figures on the test part."""
    assert source.test is not None
    twin = kept_twin(bench, SEED, options.out / "twin.safetensors")
    start = time.perf_counter()
    planted = attack.plant(bench, seed=SEED)
    seconds = time.perf_counter() - start
    if options.keep:
        save_weights(state_of(planted.model), options.out / f"{attack.kind}.safetensors")
    accuracy, asr = PUBLISHED[attack.kind]
    return {
        "attack": describe(attack),
        "epochs": options.epochs,
        "device": torch.cuda.get_device_name() if options.gpu else "cpu",
        "torch": torch.__version__,
        "seconds": seconds,
        "suspect": figures(planted.model, source, planted.trigger, bench.compute),
        "twin": figures(twin, source, planted.trigger, bench.compute),
        "twin_check": as_json(check_twin(twin, source.test, planted.trigger, bench.compute.exact())),
        "published": {"clean_accuracy": accuracy / 100, "attack_success_rate": asr / 100},
    }


def figures(model: Classifier, source: Source, trigger: Trigger, compute: Compute) -> dict[str, Any]:
    """Return the three rates of a model on the test part, in full precision."""
    assert source.test is not None
    readings = read(model, source.test, trigger, compute.exact())
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    return {name: as_json(getattr(readings, name)) for name in names}


def main() -> None:
    """Plant what is not planted yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="an .npz with x_train, y_train, x_test, y_test")
    parser.add_argument("out", type=Path)
    parser.add_argument("--attacks", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--model", default="preact_resnet18")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the suspects' weights")
    options = parser.parse_args()
    source = load_source(str(options.images.absolute()), folder=Path())
    bench = workshop(source, options)
    for kind in options.attacks:
        file = options.out / f"{kind}.json"
        if not file.is_file():
            attack = build(ATTACKS, {"kind": kind, "target_label": 0, **CHANGES.get(kind, {})}, where="attack")
            write_json(file, measure(attack, bench, source, options))


if __name__ == "__main__":
    main()
