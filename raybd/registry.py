"""From plain mappings to checked components and back: tables, construction, JSON, digests."""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from raybd.files import write_whole

T = TypeVar("T")


class BadInput(ValueError):
    """Something the user gave cannot be used; the message names it, what was got and what was expected."""


@contextmanager
def renaming(old: str, new: str) -> Iterator[None]:
    """Let an error whose message begins with the key `old` name `new` instead: the key that the user wrote."""
    try:
        yield
    except BadInput as error:
        head, told = str(error)[: len(old)], str(error)[len(old) :]
        if old == new or head != old or told[:1] not in (".", ":"):
            raise
        raise BadInput(f"{new}{told}") from error


def nearest(word: str, known: Collection[str]) -> str:
    """Return a hint that ends an error message: the nearest known word, else all of them."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


def as_number(value: object, *, where: str) -> int | float:
    """Return `value` as a finite number; text such as `1e-4` counts, because YAML 1.1 reads it as text.

    Raises:
        BadInput: if it is a boolean, no number, or not finite.
    """
    number = _parsed(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not _finite(number):
        raise BadInput(f"{where}: expected a number, got {value!r}")
    return number


def _finite(number: int | float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number too large for a float
        return False


def _parsed(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def construct(cls: type[T], mapping: Any, *, where: str) -> T:
    """Build the dataclass `cls` from `mapping`, whose keys are its fields.

    Raises:
        BadInput: for an unknown or missing key, a wrong type, or a value the class itself refuses.
    """
    if not isinstance(mapping, Mapping):
        raise BadInput(f"{where}: expected a mapping, got {mapping!r}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise BadInput(f"{where}: unknown key '{key}'{nearest(str(key), fields)}")
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    values = {key: _coerced(value, hints[key], f"{where}.{key}") for key, value in mapping.items()}
    missing = [name for name, f in fields.items() if name not in values and _required(f)]
    if missing:
        raise BadInput(f"{where}: missing key{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}")
    try:
        return cls(**values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a class's fields: read once, because a study revives thousands of records."""
    return typing.get_type_hints(cls)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _coerced(value: Any, hint: Any, where: str) -> Any:
    """`value` as the field's type; only number text is converted, everything else must already fit."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _coerced_union(value, typing.get_args(hint), where)
    if hint is float:
        return float(as_number(value, where=where))
    if hint is int:
        number = as_number(value, where=where)
        if number != int(number):
            raise BadInput(f"{where}: expected a whole number, got {value!r}")
        return int(number)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return construct(hint, value, where=where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_coerced(v, typing.get_args(hint)[0], f"{where}[{i}]") for i, v in enumerate(value))
    return _checked(value, hint, where)


def _coerced_union(value: Any, options: Sequence[Any], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    # Text comes first: a file name made of digits is still a file name.
    for option in sorted((o for o in options if o is not type(None)), key=lambda o: o is not str):
        try:
            return _coerced(value, option, where)
        except BadInput as error:
            errors.append(error)
    raise errors[-1]


def _checked(value: Any, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise BadInput(f"{where}: got {value!r}{nearest(str(value), [str(o) for o in options])}")
        return value
    plain = typing.get_origin(hint) or hint
    if plain is not Any and isinstance(plain, type) and not isinstance(value, plain):
        raise BadInput(f"{where}: expected {plain.__name__}, got {value!r}")
    return value


def build(table: Mapping[str, type[T]], mapping: Any, *, where: str) -> T:
    """Build the component that `mapping["kind"]` names in `table` from the other keys.

    Raises:
        BadInput: for an unknown kind (the nearest is suggested) and for all that `construct` refuses.
    """
    if not isinstance(mapping, Mapping) or "kind" not in mapping:
        raise BadInput(f"{where}: expected a mapping with a 'kind', one of {', '.join(sorted(table))}")
    kind = mapping["kind"]
    if not isinstance(kind, str) or kind not in table:
        raise BadInput(f"{where}.kind: unknown '{kind}'{nearest(str(kind), table)}")
    return construct(table[kind], {k: v for k, v in mapping.items() if k != "kind"}, where=where)


def describe(component: Any) -> dict[str, Any]:
    """Return a component as the mapping that `build` takes: its kind and its fields, as plain JSON."""
    return {"kind": type(component).kind, **as_json(component)}


def as_json(value: Any) -> Any:
    """Return dataclasses, tuples and paths as plain JSON values; fields marked `repr=False` are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [f for f in dataclasses.fields(value) if f.repr]
        return {f.name: as_json(getattr(value, f.name)) for f in kept}
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return str(value) if isinstance(value, Path) else value


_PLAIN: dict[Any, Any] = {bool: bool, int: int, float: int | float, str: str, Path: str}
"""What a plain field may hold in JSON."""


def revive(cls: Any, data: Any) -> Any:
    """Return the inverse of `as_json`: `data` as `cls`, a dataclass, an optional, a tuple, a dict or plain.

    Raises:
        BadInput: if `data` is not what `as_json` gives for `cls`.
    """
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return revive(next(a for a in arguments if a is not type(None)), data)
    if dataclasses.is_dataclass(cls) and isinstance(cls, type):
        return _revived(cls, data)
    if origin in (tuple, list):
        _expect(list | tuple, data, cls)
        items = [revive(arguments[0], v) for v in data]
        return items if origin is list else tuple(items)
    if origin is dict:
        _expect(Mapping, data, cls)
        return {k: revive(arguments[1], v) for k, v in data.items()}
    if cls in _PLAIN and (not isinstance(data, _PLAIN[cls]) or (isinstance(data, bool) and cls is not bool)):
        raise BadInput(f"{cls.__name__}: not readable from {data!r:.80}")
    return Path(data) if cls is Path else data


def _revived(cls: type[Any], data: Any) -> Any:
    _expect(Mapping, data, cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    missing = [name for name, f in fields.items() if name not in data and _required(f)]
    unknown = [name for name in data if name not in fields]
    if missing or unknown:
        raise BadInput(f"{cls.__name__}: written by another version or damaged; missing {missing}, unknown {unknown}")
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    return cls(**{k: revive(hints[k], v) for k, v in data.items()})


def _expect(kind: Any, data: Any, cls: Any) -> None:
    if not isinstance(data, kind):
        raise BadInput(f"{getattr(cls, '__name__', cls)}: not readable from {data!r:.80}")


def digest_of(data: Any) -> str:
    """Return the SHA-256, in hex, of `data` as canonical JSON."""
    text = json.dumps(as_json(data), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never half of it.

    Raises:
        ValueError: if a number is not finite.
    """
    write_whole(path, json.dumps(as_json(data), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON in `path`.

    Raises:
        BadInput: if it is missing or no JSON; the file is left as it was.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from error


def read_card(path: Path, *keys: str) -> dict[str, Any]:
    """Return the mapping in `path`.

    Raises:
        BadInput: if it cannot be read or lacks one of `keys`; the file is left as it was.
    """
    held = read_json(path)
    if not isinstance(held, dict):
        raise BadInput(f"{path}: damaged; expected a mapping, got {type(held).__name__}")
    missing = [key for key in keys if key not in held]
    if missing:
        raise BadInput(f"{path}: damaged or of another version; it lacks {', '.join(missing)}")
    return held
