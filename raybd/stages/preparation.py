"""From settings to live objects: the bench every stage works at, and the suspect that lies on it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raybd.artifacts import CARD, Bench, Suspect
from raybd.data import split
from raybd.evaluation.metrics import read
from raybd.models import Architecture
from raybd.registry import BadInput, read_card, renaming
from raybd.search.view import SearchView
from raybd.settings import StudySettings
from raybd.suspect import planted_trigger
from raybd.tracking import fetch
from raybd.training import Compute
from raybd.triggers import Trigger

EXAMPLES = 2


def bench(settings: StudySettings, home: Path | None = None) -> Bench:
    """Load and split the data and decide on architecture, trigger and compute.

    `home` is the folder of the suspect, once there is one: a trigger that was learnt lies there, and what it pulls to
    on the user's own task.

    Raises:
        BadInput: whatever of it the user got wrong.
    """
    source = settings.source()
    splits = split(
        source,
        settings.data.plan(),
        seed=settings.data.seed,
        folder=settings.folder,
        trained_on=_trained_on(settings),
    )
    shape, classes = splits.clean_set.shape, splits.clean_set.classes
    trigger = _trigger(settings, home)
    with renaming("trigger", "trigger" if settings.attack is None else "attack"):
        if trigger is not None and trigger.aimed:
            trigger.check(shape, classes)
        elif trigger is not None:
            trigger.fit_to(shape)
    compute, trial_compute = _computes(settings)
    compute.apply()
    return Bench(
        architecture=settings.architecture(classes, shape, upstream=settings.upstream_classes()),
        splits=splits,
        trigger=trigger,
        augment=settings.augment,
        compute=compute,
        trial_compute=trial_compute,
        seed=settings.data.seed,
    )


def _computes(settings: StudySettings) -> tuple[Compute, Compute | None]:
    """How this process computes, and how trials do where only the machines they run on have the GPUs.

    The head of a cluster is as a rule a small machine; what is computed there is read in fp32, whatever trials use.
    """
    resources = settings.resources
    asked, threads = resources.gpus_per_trial > 0, resources.cpus_per_trial
    head = asked and resources.executor == "ray" and "RAY_ADDRESS" in os.environ and not torch.cuda.is_available()
    if not head:
        return Compute.detect(threads=threads, gpu=asked, precision=resources.precision), None
    precision: Literal["fp32", "bf16"] = "fp32" if resources.precision == "fp32" else "bf16"
    return Compute(threads=threads), Compute(device="cuda", precision=precision, threads=threads)


def _trained_on(settings: StudySettings) -> Literal["train", "unknown", "other"]:
    if settings.victim.downstream:
        return "other"
    return "train" if settings.injects else "unknown"


def _trigger(settings: StudySettings, home: Path | None) -> Trigger | None:
    """The study's trigger; from the suspect's folder what only the attack could know."""
    if settings.attack is None:
        trigger = settings.trigger if isinstance(settings.trigger, Trigger) else None
    else:
        trigger = settings.attack.trigger() or (None if home is None else planted_trigger(home))
        if trigger is not None and settings.victim.downstream and settings.attack.target_of == "training":
            trigger = trigger.aimed_at(None)  # its label is one of the other task's
    if trigger is None or home is None or not settings.victim.downstream:
        return trigger
    described = read_card(home / CARD, "trigger")["trigger"]
    if not isinstance(described, dict) or not isinstance(described.get("target_label"), int | None):
        raise BadInput(f"{home / CARD}: damaged: its trigger is {described!r}")
    label = described.get("target_label")
    return trigger if label is None else trigger.aimed_at(label)


def example_images(ready: Bench) -> NDArray[np.float32]:
    """Return two images of the clean set as the model takes them: float32 (2, c, h, w) in [0, 1]."""
    example: NDArray[np.float32] = (ready.splits.clean_set.images[:EXAMPLES].float() / 255).numpy()
    return example


def search_view(suspect: Suspect) -> SearchView:
    """Return what a search may see of the suspect: clean set, selection, trigger; no test image.

    Raises:
        BadInput: if the trigger is unknown.
    """
    ready = suspect.bench
    readings = read(suspect.model(), ready.splits.selection, suspect.trigger, ready.compute)
    return SearchView(
        architecture=ready.architecture,
        state=suspect.state,
        clean_set=ready.splits.clean_set,
        selection=ready.splits.selection,
        trigger=suspect.trigger,
        augment=ready.augment,
        compute=ready.trial_compute or ready.compute,
        seed=ready.seed,
        reference_correct=readings.correct,
    )


def check_model(architecture: Architecture) -> int:
    """Build the model once, with one batch of blank images through it; return its number of parameters."""
    return sum(p.numel() for p in architecture.build(0).parameters())


def weights_file(settings: StudySettings, scratch: Path) -> tuple[Path, str]:
    """Return the file that holds the suspect's weights, and in words where they came from.

    A `models:/` address is downloaded into `scratch`, from the registry at `tracking.uri`.

    Raises:
        BadInput: if the registry is not named, or has no such model with safetensors weights.
    """
    assert settings.suspect is not None
    weights = settings.suspect.weights
    if not weights.startswith("models:/"):
        return settings.folder / weights, Path(weights).name
    if settings.tracking.uri is None:
        raise BadInput(f"suspect.weights: {weights} is in a registry; say which: tracking.uri is null")
    file = fetch(weights, tracking_uri=settings.tracking.uri, folder=scratch, base=settings.folder)
    return file, weights


def _trigger_words(settings: StudySettings, trigger: Trigger | None) -> str:
    if trigger is None and settings.attack is not None:
        return f"{settings.attack.kind}, learnt when it is planted"
    if trigger is None:
        return "unknown: the model can be adopted, but nothing can steer a search yet"
    aim = f"target label {trigger.target_label}"
    if trigger.goal == "all_to_all":
        aim = "all to all"
    elif not trigger.aimed:
        aim = f"what it pulls to is read by `raybd {'inject' if settings.injects else 'adopt'}`"
    return f"{trigger.kind}, {aim}"


def overview(settings: StudySettings, ready: Bench, origin: str, found: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a study would work with, for a person to check before the first trial."""
    splits = ready.splits
    return {
        "study": settings.name,
        "weights": origin,
        "parameters": check_model(ready.architecture),
        "images": " x ".join(map(str, ready.architecture.shape)),
        "classes": ready.architecture.classes,
        "train": len(splits.train),
        "clean set": len(splits.clean_set),
        "selection": len(splits.selection),
        "test": len(splits.test),
        "trigger": _trigger_words(settings, ready.trigger),
        "trigger knowledge": settings.trigger_knowledge,
        "space": settings.space,
        "trials": settings.search.trials,
        "compute": _compute_words(ready),
        "warnings": [*splits.warnings, *found],
    }


def _compute_words(ready: Bench) -> str:
    here = f"{ready.compute.device}, {ready.compute.precision}"
    if ready.trial_compute is None:
        return here
    return f"{here} here; trials {ready.trial_compute.device}, {ready.trial_compute.precision}"
