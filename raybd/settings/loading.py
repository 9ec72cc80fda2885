"""From a file or mapping to settings; every fault is named: file, key, what was got, what was expected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raybd.registry import BadInput, nearest
from raybd.settings.study import StudySettings
from raybd.yaml_file import find_yaml, read_yaml, shipped_folder


def load_study(study: str | Path) -> StudySettings:
    """Return the settings in a file, or in the shipped study of that name (`demo`).

    Raises:
        BadInput: one line for every fault, each with file, dotted key, what was got and what was expected.
    """
    path = study_file(study)
    return parse_study(read_yaml(path), folder=path.resolve().parent, file=str(path), given=str(study))


def study_file(study: str | Path) -> Path:
    """Return the file that `study` means: a path, or the name of a shipped study.

    Raises:
        BadInput: if there is none.
    """
    return find_yaml(str(study), near=Path(), shipped_in=shipped_folder() / "studies", where="STUDY")


def parse_study(mapping: Any, *, folder: Path, file: str = "study", given: str = "STUDY") -> StudySettings:
    """Return the settings in `mapping`, whose relative paths count from `folder`.

    Args:
        mapping: what a study file holds.
        folder: of the study.
        file: its name, for messages.
        given: what the user called the study, for the commands that repeat it.

    Raises:
        BadInput: as `load_study`.
    """
    if not isinstance(mapping, Mapping):
        raise BadInput(f"{file}: expected a mapping of keys, got {mapping!r}")
    try:
        return StudySettings.model_validate(mapping, context={"folder": folder, "given": given})
    except ValidationError as error:
        faults = [line for each in error.errors() for line in _sentences(each)]
        raise BadInput("\n".join(f"{file}: {line}" for line in faults)) from None


def _sentences(error: ErrorDetails) -> list[str]:
    """One of pydantic's errors in the house's words."""
    key, kind = ".".join(map(str, error["loc"])), error["type"]
    if kind == "extra_forbidden":
        return [f"{key}: unknown key{nearest(str(error['loc'][-1]), _known_keys(error['loc'][:-1]))}"]
    if kind == "missing":
        return [f"{key}: missing"]
    if kind == "value_error":
        # Written by us; what came through `construct` or a check of the whole study names its key already.
        lines = str(error["ctx"]["error"]).split("\n")
        return lines if not key or lines[0].startswith(str(error["loc"][0])) else [f"{key}: {line}" for line in lines]
    expected = error["msg"].replace("Input should be", "expected")
    return [f"{key}: {expected}, got {error['input']!r}"]


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    """The keys that the mapping at `place` of the study may have."""
    section: type[BaseModel] = StudySettings
    for key in place:
        hint = section.model_fields[str(key)].annotation
        options = get_args(hint) or (hint,)
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return [field.alias or name for name, field in section.model_fields.items()]
