"""A small, real study on scikit-learn's digits: splits, recipe, planted suspects, for tests and benchmarks."""

import functools
from pathlib import Path

import torch

from raybd.attacks import Attack, BadNets, Workshop
from raybd.data import Augment, ImageSet, Part, SplitPlan, Splits, load_source, split
from raybd.models import Architecture
from raybd.scenarios import Standalone, Victim
from raybd.training import Compute, Recipe

CPU = Compute(device="cpu", precision="fp32", channels_last=True, threads=1)
DIGITS = Architecture(name="small_resnet", classes=10, shape=(1, 8, 8))
TINY = Architecture(name="small_resnet", arguments={"width": 4}, classes=3, shape=(1, 8, 8))
RECIPE = Recipe(epochs=8, lr=0.05, batch_size=32)
BADNETS = BadNets(target_label=0)


@functools.cache
def splits() -> Splits:
    plan = SplitPlan(
        clean_set=Part(origin="train", size=250),
        selection=Part(origin="train", size=300),
        test=Part(origin="train", size=547),
    )
    return split(load_source("digits", folder=Path()), plan, seed=0)


def workshop(recipe: Recipe = RECIPE) -> Workshop:
    return Workshop(train=splits().train, fresh_model=DIGITS.build, recipe=recipe, augment=Augment(), compute=CPU)


def victim(attack: Attack = BADNETS, recipe: Recipe = RECIPE) -> Victim:
    """Trained once per process; a test that changes a model works on a copy."""
    return _victim(attack, recipe)


@functools.cache
def _victim(attack: Attack, recipe: Recipe) -> Victim:
    return Standalone().build(attack, workshop(recipe), seed=0)


def stripes(n: int = 48, classes: int = 3, seed: int = 0) -> ImageSet:
    """Noise with one bright row per class: learnt in a few steps by a tiny network."""
    stream = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 64, (n, 1, 8, 8), generator=stream).to(torch.uint8)
    labels = torch.arange(n) % classes
    images[torch.arange(n), 0, 2 * labels] = 255
    return ImageSet(images=images, labels=labels, classes=classes)
