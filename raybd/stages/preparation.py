"""From settings to live objects: the bench every stage works at, and the suspect that lies on it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raybd.artifacts import Bench, Suspect
from raybd.attacks import Workshop
from raybd.data import split
from raybd.evaluation.metrics import read
from raybd.evaluation.twin import check_twin
from raybd.models import Architecture
from raybd.registry import BadInput, as_json, describe
from raybd.scenarios import SCENARIOS
from raybd.search.view import SearchView
from raybd.seeds import derive
from raybd.settings import StudySettings
from raybd.tracking import Untraceable, check_traceable, fetch
from raybd.training import Compute
from raybd.triggers import Trigger
from raybd.weights import load_into, load_weights, state_of

EXAMPLES = 2
WEAK_BACKDOOR = 0.9
"""Under this ASR a trigger is reported as weak on its suspect: removing what hardly works proves little."""


def bench(settings: StudySettings) -> Bench:
    """Load and split the data and decide on architecture, trigger and compute.

    Raises:
        BadInput: whatever of it the user got wrong.
    """
    source = settings.source()
    splits = split(
        source,
        settings.data.plan(),
        seed=settings.data.seed,
        folder=settings.folder,
        trained_elsewhere=not settings.injects,
    )
    shape, classes = splits.clean_set.shape, splits.clean_set.classes
    trigger = _trigger(settings)
    if trigger is not None:
        trigger.check(shape, classes)
    resources = settings.resources
    compute = Compute.detect(
        threads=resources.cpus_per_trial, gpu=resources.gpus_per_trial > 0, precision=resources.precision
    )
    compute.apply()
    return Bench(
        architecture=settings.architecture(classes, shape),
        splits=splits,
        trigger=trigger,
        augment=settings.augment,
        compute=compute,
        seed=settings.data.seed,
    )


def _trigger(settings: StudySettings) -> Trigger | None:
    if settings.attack is not None:
        return settings.attack.trigger()
    return settings.trigger if isinstance(settings.trigger, Trigger) else None


def adopted(settings: StudySettings, ready: Bench, weights: Path, origin: str) -> Suspect:
    """Return the user's own model as a suspect; `origin` says in words where the weights came from.

    Raises:
        BadInput: if the weights cannot be read safely or do not fit the architecture.
    """
    assert settings.suspect is not None
    model = ready.architecture.build(0)
    load_into(model, load_weights(weights, key=settings.suspect.state_dict_key))
    suspect = Suspect(
        how="adopt",
        bench=ready,
        state=state_of(model),
        knowledge=settings.trigger_knowledge,
        facts={"origin": origin},
    )
    return _with_warnings(suspect)


def workshop(settings: StudySettings, ready: Bench) -> Workshop:
    """Return what the study's attacker works with."""
    assert settings.training is not None
    return Workshop(
        train=ready.splits.train,
        fresh_model=ready.architecture.build,
        recipe=settings.training,
        augment=ready.augment,
        compute=ready.compute,
    )


def injection_seed(settings: StudySettings) -> int:
    """Return the seed of the attack, and so of the never-poisoned twin."""
    return derive(settings.data.seed, "inject")


def injected(settings: StudySettings, ready: Bench, attacker: Workshop | None = None) -> Suspect:
    """Plant the study's backdoor and train the never-poisoned twin; `attacker` is by default the study's own.

    Raises:
        BadInput: if the twin obeys the trigger too, so that it is no backdoor.
    """
    assert settings.attack is not None
    scenario = SCENARIOS[settings.scenario]()
    victim = scenario.build(settings.attack, attacker or workshop(settings, ready), seed=injection_seed(settings))
    check = check_twin(victim.twin, ready.splits.selection, victim.planted.trigger, ready.compute)
    if not check.passed:
        raise BadInput(
            f"attack: this trigger is no backdoor: a model that never saw poison gives the goal label to "
            f"{check.triggered.rate:.1%} of the triggered images, to {check.clean.rate:.1%} without the trigger"
        )
    facts: dict[str, Any] = {
        "attack": describe(settings.attack),
        "training": as_json(settings.training),
        "twin": as_json(check),
        "training_seconds": victim.planted.last.seconds,
    }
    return _with_warnings(Suspect.from_victim(victim, ready, facts))


def _with_warnings(suspect: Suspect) -> Suspect:
    """The suspect with what its reader must know before the first trial: a weak trigger, a model without export."""
    ready, found = suspect.bench, []
    if ready.trigger is not None:
        rate = read(suspect.model(), ready.splits.selection, ready.trigger, ready.compute).attack_success_rate
        if rate.rate < WEAK_BACKDOOR:
            found.append(
                f"the {suspect.knowledge} trigger is weak on this suspect: ASR {rate.rate:.1%} on selection; it may "
                "not be what the model was backdoored with, and removing what hardly works proves little"
            )
    try:
        check_traceable(suspect.model(), example_images(ready))
    except Untraceable as error:
        found.append(f"this model can be searched and assessed, but not registered: {error}")
    return replace(suspect, facts={**suspect.facts, "warnings": found}) if found else suspect


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
        compute=ready.compute,
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


def _trigger_words(trigger: Trigger | None) -> str:
    if trigger is None:
        return "unknown: the model can be adopted, but nothing can steer a search yet"
    aim = "all to all" if trigger.goal == "all_to_all" else f"target label {trigger.target_label}"
    return f"{describe(trigger)['kind']}, {aim}"


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
        "trigger": _trigger_words(ready.trigger),
        "trigger knowledge": settings.trigger_knowledge,
        "space": settings.space,
        "trials": settings.search.trials,
        "compute": f"{ready.compute.device}, {ready.compute.precision}",
        "warnings": [*splits.warnings, *found],
    }
