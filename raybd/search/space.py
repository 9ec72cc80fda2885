"""Search spaces: which fields of a defense are fixed, which are searched and where, and what comes first."""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from raybd.defenses import DEFENSES
from raybd.defenses.base import Defense
from raybd.registry import BadInput, as_json, as_number, construct, digest_of, nearest
from raybd.yaml_file import find_yaml, read_yaml, shipped_folder

Setting = dict[str, Any]
"""One value for every searched field of a defense."""


@dataclass(frozen=True, kw_only=True)
class FloatRange:
    """Real numbers from `low` to `high`, both included; `log` searches orders of magnitude evenly."""

    type = "float"
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log)

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"

    def corners(self) -> tuple[Any, ...]:
        """Return the extreme values; if the defense takes these, it takes what lies between."""
        return self.low, self.high

    def at(self, share: float) -> float:
        """Return the value that lies `share`, in [0, 1), of the way through."""
        return min(max(_between(self.low, self.high, self.log, share), self.low), self.high)


@dataclass(frozen=True, kw_only=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included; `log` searches orders of magnitude evenly."""

    type = "int"
    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"whole numbers in [{self.low}, {self.high}]"

    def corners(self) -> tuple[Any, ...]:
        """Return the extreme values; if the defense takes these, it takes what lies between."""
        return self.low, self.high

    def at(self, share: float) -> int:
        """Return the number that lies `share`, in [0, 1), of the way through; each has as much room."""
        value = _between(self.low - 0.5, self.high + 0.5, self.log, share)
        return min(max(round(value), self.low), self.high)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a list of values without order."""

    type = "categorical"
    choices: tuple[object, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise BadInput("choices: expected at least one value, got none")
        if not all(isinstance(choice, str | int | float | None) for choice in self.choices):
            raise BadInput(f"choices: expected numbers, words or null, got {list(self.choices)!r:.200}")
        if len(set(self.choices)) < len(self.choices):
            raise BadInput(f"choices: expected different values, got {list(self.choices)}")

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}"

    def corners(self) -> tuple[Any, ...]:
        """Return every choice."""
        return self.choices

    def at(self, share: float) -> object:
        """Return the choice that lies `share`, in [0, 1), of the way through."""
        return self.choices[int(share * len(self.choices))]


Dimension = FloatRange | IntRange | Choice
DIMENSIONS: Mapping[str, type[Dimension]] = {"float": FloatRange, "int": IntRange, "categorical": Choice}


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched: a defense, its fixed fields, a dimension for each other, settings to try first."""

    defense: str
    fixed: dict[str, Any]
    search: dict[str, Dimension]
    first: tuple[Setting, ...] = ()

    @classmethod
    def load(cls, name_or_path: str, folder: Path) -> Self:
        """Return a shipped space by name, or the one in a YAML file, its path relative to `folder`.

        Raises:
            BadInput: if there is no such space or file, or what it says cannot be searched.
        """
        path = find_yaml(name_or_path, near=folder, shipped_in=shipped_folder(), where="space")
        return cls.parse(read_yaml(path), where=path.name)

    @classmethod
    def parse(cls, mapping: Any, *, where: str) -> Self:
        """Return the space a mapping describes (design section 6), every value checked against the defense.

        Raises:
            BadInput: naming `where`, the key, the value and what was expected.
        """
        known = ("defense", "fixed", "search", "first")
        if not isinstance(mapping, Mapping):
            raise BadInput(f"{where}: expected a mapping with {', '.join(known)}, got {mapping!r}")
        for key in mapping:
            if key not in known:
                raise BadInput(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
        fields = _fields_of(mapping.get("defense"), where)
        fixed = _section(mapping, "fixed", fields, where)
        dimensions = {
            name: _dimension(spec, fields[name], f"{where}: search.{name}")
            for name, spec in _section(mapping, "search", fields, where).items()
        }
        first = mapping.get("first") or []
        if not isinstance(first, list):
            raise BadInput(f"{where}: first: expected a list of settings, got {first!r}")
        settings = tuple(_setting(s, fields, f"{where}: first[{i}]") for i, s in enumerate(first))
        space = cls(defense=mapping["defense"], fixed=fixed, search=dimensions, first=settings)
        space._check_complete(where)
        return space

    def _check_complete(self, where: str) -> None:
        """Refuse a space of which some setting could not be built, before the first trial runs into it."""
        if not self.search:
            raise BadInput(f"{where}: search: expected at least one dimension, got none")
        for name in self.fixed:
            if name in self.search:
                raise BadInput(f"{where}: '{name}' is both fixed and searched")
        lowest = {name: dimension.corners()[0] for name, dimension in self.search.items()}
        for name, dimension in self.search.items():
            for value in dimension.corners():
                self.build({**lowest, name: value}, where=f"{where}: search.{name}")
        for i, setting in enumerate(self.first):
            self.check(setting, where=f"{where}: first[{i}]")
            self.build(setting, where=f"{where}: first[{i}]")

    def check(self, setting: Mapping[str, Any], *, where: str = "setting") -> None:
        """Do nothing if `setting` has one value in range for every dimension.

        Raises:
            BadInput: naming the key, the value and the range.
        """
        for name, value in setting.items():
            if name not in self.search:
                raise BadInput(f"{where}: '{name}' is not searched{nearest(name, self.search)}")
            if value not in self.search[name]:
                expected = self.search[name]
                raise BadInput(f"{where}.{name}: {value!r} lies outside the space; expected {expected}")
        missing = [name for name in self.search if name not in setting]
        if missing:
            raise BadInput(f"{where}: expected a complete setting; missing {', '.join(map(repr, missing))}")

    def at(self, shares: Sequence[float]) -> Setting:
        """Return the setting that lies so far, in [0, 1), through each dimension."""
        return {name: d.at(share) for (name, d), share in zip(self.search.items(), shares, strict=True)}

    def __contains__(self, setting: Mapping[str, Any]) -> bool:
        return setting.keys() == self.search.keys() and all(v in self.search[n] for n, v in setting.items())

    def build(self, setting: Mapping[str, Any], *, where: str = "setting") -> Defense:
        """Return the defense with the fixed fields and those of `setting`.

        Raises:
            BadInput: if the defense refuses a value.
        """
        return construct(DEFENSES[self.defense], {**self.fixed, **setting}, where=where)

    def describe(self) -> dict[str, Any]:
        """Return the space as the plain mapping that `parse` takes."""
        dimensions = {name: {"type": d.type, **as_json(d)} for name, d in self.search.items()}
        fixed, first = as_json(self.fixed), as_json(self.first)
        return {"defense": self.defense, "fixed": fixed, "search": dimensions, "first": first}

    def digest(self) -> str:
        """Return a SHA-256 of everything in the space, in hex."""
        return digest_of(self.describe())


def _between(low: float, high: float, log: bool, share: float) -> float:
    if log:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


def _check_range(low: float | int, high: float | int, log: bool) -> None:
    if not low < high:
        raise BadInput(f"low: expected less than high, got low {low:g} and high {high:g}")
    if log and low <= 0:
        raise BadInput(f"low: expected more than 0 because log is true, got {low:g}")


def _fields_of(defense: Any, where: str) -> dict[str, Any]:
    """The fields of a defense, by name, with their types."""
    if not isinstance(defense, str) or defense not in DEFENSES:
        raise BadInput(f"{where}: defense: unknown {defense!r}{nearest(str(defense), DEFENSES)}")
    hints = typing.get_type_hints(DEFENSES[defense])
    return {f.name: hints[f.name] for f in dataclasses.fields(DEFENSES[defense]) if f.init}


def _section(mapping: Mapping[str, Any], key: str, fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`fixed` or `search`: a mapping whose keys are fields of the defense; number text becomes a number."""
    section = mapping.get(key) or {}
    if not isinstance(section, Mapping):
        raise BadInput(f"{where}: {key}: expected a mapping, got {section!r}")
    for name in section:
        if name not in fields:
            raise BadInput(f"{where}: {key}: the defense has no field '{name}'{nearest(str(name), fields)}")
    if key == "search":
        return dict(section)
    return _setting(section, fields, f"{where}: {key}")


def _setting(mapping: Any, fields: Mapping[str, Any], where: str) -> Setting:
    if not isinstance(mapping, Mapping):
        raise BadInput(f"{where}: expected a mapping of field to value, got {mapping!r}")
    for name in mapping:
        if name not in fields:
            raise BadInput(f"{where}: the defense has no field '{name}'{nearest(str(name), fields)}")
    return {name: _plain(value, fields[name], f"{where}.{name}") for name, value in mapping.items()}


def _plain(value: Any, hint: Any, where: str) -> Any:
    """`value` as a number where the field is one, so that `1e-4`, which YAML reads as text, is 0.0001."""
    if hint is float:
        return float(as_number(value, where=where))
    if hint is int:
        number = as_number(value, where=where)
        if number != int(number):
            raise BadInput(f"{where}: expected a whole number, got {value!r}")
        return int(number)
    return value


def _dimension(spec: Any, hint: Any, where: str) -> Dimension:
    if not isinstance(spec, Mapping) or "type" not in spec:
        known = ", ".join(DIMENSIONS)
        raise BadInput(f"{where}: expected a mapping with a 'type', one of {known}; got {spec!r}")
    kind = spec["type"]
    if not isinstance(kind, str) or kind not in DIMENSIONS:
        raise BadInput(f"{where}.type: unknown {kind!r}{nearest(str(kind), DIMENSIONS)}")
    if hint is int and kind == "float":
        raise BadInput(f"{where}.type: the field takes whole numbers; expected 'int' or 'categorical'")
    values = {key: value for key, value in spec.items() if key != "type"}
    if kind == "categorical" and isinstance(values.get("choices"), list):
        listed = enumerate(values["choices"])
        values["choices"] = [_plain(choice, hint, f"{where}.choices[{i}]") for i, choice in listed]
    return construct(DIMENSIONS[kind], values, where=where)
