"""The stage `promote`: the gate's word, then a registry version with its tags, then the alias."""

from typing import Any

from raybd.artifacts import CARD, WEIGHTS, Assessment, Candidate, Suspect
from raybd.registry import as_json, write_json
from raybd.settings import StudySettings
from raybd.stages.assessing import check_ships
from raybd.stages.preparation import example_images
from raybd.stages.run_folder import RunFolder
from raybd.tracking import Tracker, Version
from raybd.weights import load_into


def promote(
    settings: StudySettings, suspect: Suspect, candidate: Candidate, assessment: Assessment, folder: RunFolder
) -> dict[str, Any]:
    """Register the candidate if the gate lets it pass; return the card of what happened.

    Raises:
        BadInput: if the assessment is of other weights, or MLflow refuses.
        Unreachable: if MLflow does not answer.
    """
    check_ships(assessment, candidate)
    refused = settings.gate.verdict(assessment.checks)
    card: dict[str, Any] = {"name": settings.model_name, "alias": settings.tracking.alias, "refusals": list(refused)}
    card |= {"version": None, "previous_version": None, "promoted": False, "weights_digest": assessment.weights_digest}
    if not refused:
        card |= _register(settings, suspect, candidate, assessment, folder)
    write_json(folder.stage("promote") / CARD, card)
    return card


def rollback(settings: StudySettings, folder: RunFolder) -> Version:
    """Give the alias back to its previous holder, and note that on this run's card if it was this run's version."""
    tracker = Tracker(settings.tracking.uri, folder.path, settings.name, base=settings.folder)
    restored = tracker.rollback(name=settings.model_name, alias=settings.tracking.alias)
    card = folder.card("promote")
    if card is not None and card["version"] == restored.previous_version:
        write_json(folder.stage("promote") / CARD, {**card, "promoted": False, "rolled_back_to": restored.version})
    return restored


def _register(
    settings: StudySettings, suspect: Suspect, candidate: Candidate, assessment: Assessment, folder: RunFolder
) -> dict[str, Any]:
    tracker = Tracker(settings.tracking.uri, folder.path, settings.name, base=settings.folder)
    model = suspect.model()
    load_into(model, candidate.states[candidate.shown])
    address = tracker.model(
        "candidate",
        model=model,
        weights=folder.stage("select") / WEIGHTS,
        card={"candidate": candidate.card, "assessment": as_json(assessment)},
        example=example_images(suspect.bench),
    )
    version = tracker.promote(
        name=settings.model_name,
        alias=settings.tracking.alias,
        model_uri=address,
        tags=_tags(suspect, candidate, assessment),
    )
    return {
        "version": version.version,
        "previous_version": version.previous_version,
        "promoted": True,
        "uri": f"models:/{settings.model_name}@{settings.tracking.alias}",
    }


def _tags(suspect: Suspect, candidate: Candidate, assessment: Assessment) -> dict[str, Any]:
    """Everything a later reader must be able to check without the run folder."""
    card = suspect.card()
    chosen = assessment.selected
    rates = {
        name: as_json(getattr(chosen, name))
        for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy", "accuracy_drop")
    }
    tags = {
        "stage": "promote",
        "weights_digest": assessment.weights_digest,
        "suspect_digest": suspect.digest,
        "suspect_weights_digest": card["weights_digest"],
        "trigger_knowledge": suspect.knowledge,
        "defense": candidate.card["defense"],
        "seed": candidate.card["shipped_seed"],
        **{f"data.{name}": part["digest"] for name, part in card["splits"].items()},
        **{f"{name}.{key}": value for name, rate in rates.items() if rate for key, value in rate.items()},
        **{f"gate.{check.name}": check.detail for check in assessment.checks},
    }
    rise = assessment.membership_auc_rise
    return tags if rise is None else tags | {f"membership_auc_rise.{k}": v for k, v in as_json(rise).items()}
