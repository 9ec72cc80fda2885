"""How a study comes to its suspect: adopted or injected, and in transfer and encoder moved to the user's task."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from raybd.artifacts import Bench, Suspect
from raybd.attacks import Workshop
from raybd.data import ImageSet, Source, stratified_order
from raybd.evaluation.metrics import read
from raybd.evaluation.twin import check_twin
from raybd.models import Architecture, Classifier
from raybd.registry import BadInput, as_json, describe
from raybd.scenarios import Victim, pulled_label, transplanted
from raybd.seeds import derive
from raybd.settings import StudySettings
from raybd.stages.preparation import example_images
from raybd.suspect import without_folders
from raybd.tracking import Untraceable, check_traceable
from raybd.training import Epoch
from raybd.triggers import Trigger
from raybd.weights import check_finite, load_into, load_weights, state_of

OnTraining = Callable[[str, Epoch], None]
"""Told after each stretch of a training, with a word on which training it is."""
WEAK_BACKDOOR = 0.9
"""Under this ASR a trigger is reported as weak on its suspect: removing what hardly works proves little."""
UPSTREAM_TEST = 2000
"""So many test images of another task show what a planted model does there."""


class NoBackdoor(BadInput):
    """A trigger moves a model that never saw poison: it is none of an attack's doing."""


def adopted(
    settings: StudySettings, ready: Bench, weights: Path, origin: str, on_training: OnTraining | None = None
) -> Suspect:
    """Return the user's own model as a suspect; `origin` says in words where the weights came from.

    Under another task the reference model is trained, of which `on_training` is told.

    Raises:
        BadInput: if the weights cannot be read safely or do not fit the architecture.
    """
    start = _arrived(settings, ready, weights)
    suspect = Suspect(
        how="adopt",
        bench=ready,
        state=state_of(start),
        knowledge=settings.trigger_knowledge,
        facts={"origin": origin, **_scenario_facts(settings)},
    )
    if settings.victim.downstream:
        shipped = _shipped(settings, ready, start, on_training)
        suspect = replace(suspect, reference=state_of(shipped))
        if ready.trigger is not None:
            suspect = replace(suspect, bench=replace(ready, trigger=_aimed(ready, shipped, ready.trigger)))
    return _with_warnings(suspect)


def examined(settings: StudySettings, ready: Bench, weights: Path) -> list[str]:
    """Return the warnings of `adopted` that need no training: under another task not what the trigger does there.

    Raises:
        BadInput: as `adopted` does.
    """
    trigger = None if settings.victim.downstream else ready.trigger
    return _warnings(_arrived(settings, ready, weights), ready, trigger, settings.trigger_knowledge)


def _arrived(settings: StudySettings, ready: Bench, weights: Path) -> Classifier:
    """The user's own model as every defense begins with it: as it came, or under a fresh head for the user's task."""
    assert settings.suspect is not None
    model = upstream_architecture(settings, ready).build(0)
    load_into(model, load_weights(weights, key=settings.suspect.state_dict_key))
    check_finite(state_of(model), f"suspect.weights: {weights.name}")  # as the model holds them, in its own precision
    return _transplanted(settings, ready, model) if settings.victim.downstream else model


def upstream_architecture(settings: StudySettings, ready: Bench) -> Architecture:
    """Return the network as it was trained, before the user put a head of their own on it."""
    own = ready.architecture
    if not settings.victim.downstream:
        return own
    if own.head_from == "added":
        return replace(own, head_from="headless")
    known: Literal["any", "own"] = "any" if own.upstream_classes is None else "own"
    return replace(own, head_from=known, classes=own.upstream_classes or own.classes, upstream_classes=None)


def workshop(settings: StudySettings, ready: Bench, on_training: OnTraining | None = None) -> Workshop:
    """Return what the study's attacker works with.

    Raises:
        BadInput: if another task's images have another shape than the user's.
    """
    assert settings.training is not None
    downstream = settings.victim.downstream
    return Workshop(
        train=_upstream_images(settings, settings.upstream_source(), ready) if downstream else ready.splits.train,
        fresh_model=upstream_architecture(settings, ready).build,
        recipe=settings.training,
        augment=ready.augment,
        compute=ready.compute,
        references=ready.splits.train if downstream else None,
        on_progress=on_training,
    )


def _upstream_images(settings: StudySettings, source: Source, ready: Bench) -> ImageSet:
    assert settings.upstream is not None
    images, count = source.train, settings.upstream.images
    if images.shape != ready.architecture.shape:
        raise BadInput(
            f"upstream.source: images are {images.shape} (channels, height, width), those of data are "
            f"{ready.architecture.shape}; `size` scales them, channels must be the same"
        )
    if count is None:
        return images
    if count > len(images):
        raise BadInput(f"upstream.images: {count} > {len(images)} images in the train part of {source.name}")
    return images.subset(stratified_order(images.labels, seed=settings.data.seed)[:count].sort().values)


def injection_seed(settings: StudySettings) -> int:
    """Return the seed of the attack, and so of the never-poisoned twin."""
    return derive(settings.data.seed, "inject")


def injected(settings: StudySettings, ready: Bench, attacker: Workshop | None = None) -> Suspect:
    """Plant the study's backdoor and train the never-poisoned twin; `attacker` is by default the study's own.

    A trigger known beforehand is tried on the twin first, so that one that is refused costs no poisoned training.

    Raises:
        NoBackdoor: if the twin obeys the trigger too.
        BadInput: if the attack cannot be carried out.
    """
    assert settings.attack is not None
    attacker = attacker or workshop(settings, ready)
    check_injection(settings, ready, attacker)
    seed, downstream = injection_seed(settings), settings.victim.downstream
    known = None if downstream else settings.attack.trigger()
    found = None if known is None else _twin_facts(attacker.twin(seed), ready, known, refuse=True)
    victim = settings.victim.build(settings.attack, attacker, seed=seed)
    facts: dict[str, Any] = {
        **_scenario_facts(settings),
        "attack": without_folders(describe(settings.attack)),
        "training": as_json(settings.training),
        "training_seconds": victim.planted.last.seconds,
    }
    if downstream:
        facts |= _upstream_facts(settings, ready, victim)
        suspect = _downstream(settings, ready, victim, facts, attacker.on_progress)
    else:
        suspect = Suspect.from_victim(victim, ready, facts, makes_images=settings.attack.makes_images)
    if found is None:
        found = _twin_facts(_twin_of(suspect), ready, suspect.trigger, refuse=not downstream)
    return _with_warnings(replace(suspect, facts={**suspect.facts, **found}))


def check_injection(settings: StudySettings, ready: Bench, attacker: Workshop) -> None:
    """Raise BadInput unless the attack can be carried out and, under another task, the network moved there."""
    assert settings.attack is not None
    settings.victim.check(settings.attack)
    settings.attack.check(attacker)
    if settings.victim.downstream:
        transplanted(attacker.fresh_model(0), ready.architecture, seed=0)


def _scenario_facts(settings: StudySettings) -> dict[str, str]:
    return {"scenario": settings.scenario, "reference_model": settings.victim.reference_words}


def _downstream(
    settings: StudySettings, ready: Bench, victim: Victim, facts: dict[str, Any], on_training: OnTraining | None
) -> Suspect:
    """The suspect of a victim whose user has put it, and would have put its twin, under a task of their own."""
    assert settings.attack is not None
    start, twin = (_transplanted(settings, ready, model) for model in (victim.planted.model, victim.twin))
    shipped, twin = (_shipped(settings, ready, model, on_training) for model in (start, twin))
    trigger = victim.planted.trigger
    if settings.attack.target_of == "training":
        trigger = _aimed(ready, shipped, trigger.aimed_at(None))
    moved = Victim(planted=replace(victim.planted, model=start, trigger=trigger), twin=twin)
    planted, counted = victim.planted, victim.planted.training_set is not None
    counts = {name: len(getattr(planted, name)) if counted else None for name in ("poisoned", "covers")}
    facts = {**facts, "upstream": {**facts.get("upstream", {}), **counts}}
    suspect = Suspect.from_victim(moved, ready, facts, makes_images=settings.attack.makes_images)
    # What was poisoned are places in the other task's images, none in the user's own.
    return replace(suspect, reference=state_of(shipped), poisoned=(), covers=())


def _transplanted(settings: StudySettings, ready: Bench, model: Classifier) -> Classifier:
    """`model` under a fresh head for the user's task."""
    return transplanted(model, ready.architecture, seed=injection_seed(settings))


def _shipped(settings: StudySettings, ready: Bench, start: Classifier, on_training: OnTraining | None) -> Classifier:
    """What the user would ship without a defense of a model that begins as `start`, which is left as it is."""
    return settings.victim.shipped(
        copy.deepcopy(start),
        ready.splits.clean_set,
        ready.architecture,
        augment=ready.augment,
        compute=ready.compute,
        seed=derive(injection_seed(settings), "reference"),
        on_progress=on_training,
    )


def _aimed(ready: Bench, shipped: Classifier, trigger: Trigger) -> Trigger:
    """The trigger with what it pulls to on the user's task, read on selection before any defense, unless known."""
    if trigger.aimed:
        return trigger
    return trigger.aimed_at(pulled_label(shipped, ready.splits.selection, trigger, ready.compute))


def _upstream_facts(settings: StudySettings, ready: Bench, victim: Victim) -> dict[str, Any]:
    """What the planted model does on the task it was trained for, where it has a head there and test images."""
    test = settings.upstream_source().test
    if settings.attack is None or settings.attack.target_of == "victim" or test is None:
        return {}
    images = test.subset(stratified_order(test.labels, seed=settings.data.seed)[:UPSTREAM_TEST])
    readings = read(victim.planted.model, images, victim.planted.trigger, ready.compute)
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy")
    return {"upstream": {name: as_json(getattr(readings, name)) for name in names}}


def _twin_of(suspect: Suspect) -> Classifier:
    """A never-poisoned twin as the user would ship it."""
    assert suspect.twin is not None
    twin = suspect.bench.architecture.build(0)
    load_into(twin, suspect.twin)
    return twin


def _twin_facts(twin: Classifier, ready: Bench, trigger: Trigger, *, refuse: bool) -> dict[str, Any]:
    """The twin's check as facts on a suspect.

    A failed check is refused, or else a warning: under another task a backdoor that does not carry over is a finding.
    """
    check = check_twin(twin, ready.splits.selection, trigger, ready.compute)
    if check.passed:
        return {"twin": as_json(check), "warnings": []}
    fault = (
        f"this trigger is no backdoor: a model that never saw poison gives the goal label to "
        f"{check.triggered.rate:.1%} of the triggered images, to {check.clean.rate:.1%} without the trigger"
    )
    if refuse:
        raise NoBackdoor(f"attack: {fault}")
    return {"twin": as_json(check), "warnings": [fault]}


def _with_warnings(suspect: Suspect) -> Suspect:
    """The suspect with what its reader must know before the first trial."""
    found = _warnings(suspect.model(), suspect.bench, suspect.bench.trigger, suspect.knowledge)
    known = suspect.facts.get("warnings", [])
    return replace(suspect, facts={**suspect.facts, "warnings": [*known, *found]}) if found else suspect


def _warnings(model: Classifier, ready: Bench, trigger: Trigger | None, knowledge: str) -> list[str]:
    """What a reader must know of a model before the first trial: a weak trigger, a model without export."""
    found = []
    if trigger is not None:
        rate = read(model, ready.splits.selection, trigger, ready.compute).attack_success_rate
        if rate.rate < WEAK_BACKDOOR:
            hardly = rate.rate < WEAK_BACKDOOR / 2
            cause = "it may not be what the model was backdoored with"
            if knowledge == "planted":
                cause = "the attack hardly took here" if hardly else "the attack took, but not in full"
            found.append(
                f"the {knowledge} trigger is weak on this suspect: ASR {rate.rate:.1%} on selection; {cause}"
                + (", and removing what hardly works proves little" if hardly else "")
            )
    try:
        check_traceable(model, example_images(ready))
    except Untraceable as error:
        found.append(f"this model can be searched and assessed, but not registered: {error}")
    return found
