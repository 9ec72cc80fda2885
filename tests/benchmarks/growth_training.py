"""What a trial costs against the size of the network and of the clean set, in this process, without Ray."""

import statistics
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from raybd.data import Augment, ImageSet
from raybd.defenses import FineTuning
from raybd.models import Architecture
from raybd.search.records import Outcome
from raybd.search.trial import run_trial
from raybd.search.view import SearchView
from raybd.training import Compute
from raybd.triggers import Patch
from raybd.weights import state_of
from tests.benchmarks.growth_fits import growth
from tests.benchmarks.growth_sizes import Sizes

SELECTION = 500
CLASSES = 10
BATCH = 50


def view(width: int, image: int, clean_set: int) -> SearchView:
    """Return a `small_convnet` of a width, untrained, and noise in colour to train it on."""
    architecture = Architecture(
        name="small_convnet", arguments={"width": width}, classes=CLASSES, shape=(3, image, image)
    )
    return SearchView(
        architecture=architecture,
        state=state_of(architecture.build(0)),
        clean_set=_noise(clean_set, image),
        selection=_noise(SELECTION, image),
        trigger=Patch(size=2, target_label=0),
        augment=Augment(),
        compute=Compute.detect(),
        seed=0,
        reference_correct=torch.ones(SELECTION, dtype=torch.bool),
    )


def _noise(n: int, image: int) -> ImageSet:
    stream = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, image, image), generator=stream).to(torch.uint8)
    return ImageSet(images=images, labels=torch.arange(n) % CLASSES, classes=CLASSES)


def cost_of(seen: SearchView) -> dict[str, float]:
    """Return the weights of a network and the floating-point operations of a training step, per image."""
    model = seen.compute.place(seen.defender().model).train()
    inputs = seen.compute.inputs(seen.clean_set.images[:BATCH])
    with FlopCounterMode(display=False) as counter, seen.compute.autocast():
        model(inputs).float().sum().backward()
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "flop": counter.get_total_flops() / len(inputs)}


def trial(seen: SearchView, sizes: Sizes) -> Outcome:
    """Return the outcome whose training took the median time, of several trials after one to warm up."""
    seen.compute.apply()
    defense = FineTuning(epochs=sizes.epochs, batch_size=BATCH)
    run_trial(seen, defense, seed=0)
    outcomes = [run_trial(seen, defense, seed=seed) for seed in range(1, sizes.repeats + 1)]
    for outcome in outcomes:
        if outcome.state != "complete":
            raise RuntimeError(outcome.error)
    middle = statistics.median_low(outcome.training_seconds for outcome in outcomes)
    return next(outcome for outcome in outcomes if outcome.training_seconds == middle)


def model_size(sizes: Sizes) -> dict[str, Any]:
    """Measure the seconds per image of training, and of evaluation, against the width of the network."""
    rows = []
    for width in sizes.widths:
        seen = view(width, sizes.image, sizes.width_images)
        ended = trial(seen, sizes)
        seconds = {
            "seconds_per_image": ended.training_seconds / ended.images,
            "evaluation_seconds": ended.evaluation_seconds,
        }
        rows.append({"width": width, **cost_of(seen), **seconds})
    fits = {f"seconds in {x}": growth(rows, x, "seconds_per_image") for x in ("parameters", "flop")}
    return {"series": {_title(sizes): {"rows": rows, "fits": fits}}, "precision": Compute.detect().precision}


def clean_set(sizes: Sizes) -> dict[str, Any]:
    """Measure the seconds of a trial's training for a number of epochs against the size of the clean set."""
    rows = []
    for images in sizes.clean_sets:
        ended = trial(view(sizes.widths[0], sizes.image, images), sizes)
        rows.append({"images": images, "seconds": ended.training_seconds, "evaluation": ended.evaluation_seconds})
    fits = {"seconds": growth(rows, "images", "seconds")}
    return {"series": {_title(sizes): {"rows": rows, "fits": fits}}, "precision": Compute.detect().precision}


def _title(sizes: Sizes) -> str:
    return f"small_convnet, {sizes.image} x {sizes.image} pixels in colour, {sizes.epochs} epochs"
