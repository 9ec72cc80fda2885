"""The keys of a study file that are components of the engine: checked by building them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import ValidationInfo

from raybd.attacks import ATTACKS
from raybd.defenses import reference
from raybd.registry import BadInput, build, construct, describe, nearest
from raybd.scenarios import SCENARIOS
from raybd.search.space import Space
from raybd.triggers import TRIGGERS


def _anchored(cls: type[Any], mapping: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`mapping` with the files that it names, the fields of type Path, taken from the study's folder."""
    files = {key for key, hint in get_type_hints(cls).items() if hint is Path or Path in get_args(hint)}
    return {k: str(folder / v) if k in files and isinstance(v, str) else v for k, v in mapping.items()}


def _component(table: Mapping[str, type[Any]], value: Any, info: ValidationInfo) -> Any:
    """The attack or trigger that a mapping with `kind` describes."""
    assert info.context is not None
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if isinstance(kind, str) and kind in table:
        value = {**value, **_anchored(table[kind], value, info.context["folder"])}
    return build(table, value, where=str(info.field_name))


def trigger(value: Any, info: ValidationInfo) -> Any:
    """Return the trigger, `unknown` as it is, or None."""
    if isinstance(value, str) and value != "unknown":
        raise BadInput(f"trigger: expected a mapping with a 'kind', or unknown, got {value!r}")
    return value if value in ("unknown", None) else _component(TRIGGERS, value, info)


def attack(value: Any, info: ValidationInfo) -> Any:
    """Return the attack, or None; its kind first: under a wrong one, its keys are no fault of their own."""
    if value is None:
        return None
    kind = value.get("kind") if isinstance(value, Mapping) else None
    scenario = SCENARIOS.get(str(info.data.get("scenario")))
    if scenario is not None and isinstance(kind, str) and kind in ATTACKS:
        scenario().check(ATTACKS[kind])
    return _component(ATTACKS, value, info)


def described(value: Any) -> Any:
    """Return a component as the mapping that built it, with its defaults."""
    return value if value in ("unknown", None) else describe(value)


def plain(cls: type[Any]) -> Callable[[Any, ValidationInfo], Any]:
    """Return a validator for one of the engine's dataclasses, whose fields are its YAML keys."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        return None if value is None else construct(cls, value, where=str(info.field_name))

    return validate


def training(value: Any, info: ValidationInfo) -> Any:
    """Return the recipe, of the kind that the study's scenario trains by, or None."""
    scenario = SCENARIOS.get(str(info.data.get("scenario")))
    return None if value is None or scenario is None else construct(scenario.recipe, value, where="training")


def known_scenario(name: str) -> str:
    """Return `name` if there is such a scenario."""
    if name not in SCENARIOS:
        raise BadInput(f"unknown '{name}'{nearest(name, SCENARIOS)}")
    return name


def known_reference(name: str) -> str:
    """Return `name` if it is a defense, or `defense:preset`."""
    reference(name)
    return name


def readable_space(name: str, info: ValidationInfo) -> str:
    """Return `name` if the space it means can be read and searched."""
    assert info.context is not None
    Space.load(name, info.context["folder"])
    return name
