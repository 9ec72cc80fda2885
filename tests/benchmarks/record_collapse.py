"""Writes tests/data/collapse_trials.json: what became of trials that the collapse rule was told not to stop.

Run from the repository root: python -m tests.benchmarks.record_collapse (about four minutes on one core).
"""

import copy
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raybd import seeds
from raybd.attacks import Workshop
from raybd.data import Augment
from raybd.defenses import SuperFineTuning
from raybd.evaluation.metrics import answers
from raybd.models import Classifier
from raybd.registry import write_json
from raybd.training import Recipe, fit, predict
from tests.digits import BADNETS, CPU, splits, victim

TABLE = Path(__file__).parents[1] / "data" / "collapse_trials.json"
TRIALS = {"small_resnet": 48, "plain": 24}
BATCH_SIZE = 32
RECIPE = Recipe(epochs=15, lr=0.05, batch_size=32)


def plain(seed: int) -> Classifier:
    """A network without batch normalisation, which a high rate kills for good."""
    with seeds.IsolatedRandom(seed):
        layers: list[nn.Module] = []
        for wide_in, wide_out, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(wide_in, wide_out, 3, stride, 1), nn.ReLU()]
        return Classifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)))


def suspects() -> dict[str, Classifier]:
    own = Workshop(train=splits().train, fresh_model=plain, recipe=RECIPE, augment=Augment(), compute=CPU)
    planted = BADNETS.plant(own, seed=0)
    return {"small_resnet": victim(BADNETS, RECIPE).planted.model, "plain": planted.model}


def setting(draw: random.Random) -> dict[str, Any]:
    """A random setting; both peaks reach far beyond what any shipped space holds, so that some trials are wrecked."""

    def log(low: float, high: float) -> float:
        return float(f"{math.exp(draw.uniform(math.log(low), math.log(high))):.4g}")

    ramp = draw.choice([4, 8, 16])
    return {
        "lr_base": log(1e-4, 3e-2),
        "lr_max1": log(0.05, 3.0),
        "lr_max2": log(1e-3, 3.0),
        "epochs": round(log(10, 40)),
        "phase1_share": round(draw.uniform(0.15, 0.7), 2),
        "batch_size": BATCH_SIZE,
        "ramp_up_steps": ramp,
        "ramp_down_steps": ramp,
    }


def clean_accuracy(model: Classifier) -> float:
    selection = splits().selection
    return (answers(predict(model, selection.images, CPU)) == selection.labels).float().mean().item()


def trial(suspect: Classifier, chosen: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run one setting to its end whatever happens, and keep the loss at the end of each cycle."""
    defense, model, clean_set = SuperFineTuning(**chosen), copy.deepcopy(suspect), splits().clean_set
    schedule, steps = defense.plan(len(clean_set))
    epochs = fit(
        model,
        clean_set,
        steps=steps,
        batch_size=defense.batch_size,
        schedule=schedule,
        momentum=defense.momentum,
        weight_decay=defense.weight_decay,
        augment=Augment(),
        compute=CPU,
        seed=seed,
        cycle_steps=defense.cycle_steps,
        stop_on_collapse=False,
    )
    losses = [round(epoch.loss, 3) if math.isfinite(epoch.loss) else None for epoch in epochs]
    return {"setting": chosen, "seed": seed, "losses": losses, "clean_accuracy": round(clean_accuracy(model), 4)}


def recorded(name: str, suspect: Classifier) -> dict[str, Any]:
    draw = random.Random(0)
    trials = [trial(suspect, setting(draw), seeds.derive(0, "collapse", i)) for i in range(TRIALS[name])]
    return {"suspect": name, "reference_clean_accuracy": round(clean_accuracy(suspect), 4), "trials": trials}


def main() -> None:
    CPU.apply()
    start = time.perf_counter()
    tables = [recorded(name, suspect) for name, suspect in suspects().items()]
    about = "losses: per cycle, null if not finite; clean_accuracy: on selection, at the end; never stopped"
    facts = {"about": about, "data": "digits, badnets", "torch": torch.__version__, "classes": 10}
    write_json(TABLE, {**facts, "suspects": tables})
    print(f"{time.perf_counter() - start:.0f} s -> {TABLE}")


if __name__ == "__main__":
    main()
