"""From plain mappings to checked components and back: tables, construction, JSON, digests."""

import collections.abc
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

JSON_BYTES = 64 * 2**20
"""No JSON file is read that is larger: a search's card takes about 1 KB for each trial."""
JSON_DEPTH = 64
"""Nothing we write is nested so deeply; what is would exhaust the stack of whoever walks through it."""


class BadInput(ValueError):
    """Something the user gave cannot be used; the message names it, what was got and what was expected."""


class Outage(Exception):
    """A service does not answer, so what was asked of it was not done; the same command does it later."""


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
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(names) - 50} more" if len(names) > 50 else ""
    return f"; known: {', '.join(names[:50]) or 'none'}{more}"


def is_file(path: Path) -> bool:
    """Whether `path` is a file; a name that no system would take is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; a name that no system would take is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def within(path: Path, folder: Path) -> bool:
    """Whether `path`, all links followed, lies in `folder`; what no system would take lies nowhere."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links that lead round in a circle
        return False


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


def revive(cls: Any, data: Any) -> Any:
    """Return the inverse of `as_json`: `data` as `cls`, a dataclass, an optional, a tuple, a dict or plain.

    Raises:
        BadInput: if `data` is not what `as_json` gives for `cls`, down to the last number.
    """
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return revive(next(a for a in arguments if a is not type(None)), data)
    if dataclasses.is_dataclass(cls) and isinstance(cls, type):
        return _revived(cls, data)
    if origin in (tuple, list):
        _expect(list | tuple, data, cls)
        items = [revive(arguments[0], v) for v in data]
        return items if origin is list else tuple(items)
    if origin in (dict, collections.abc.Mapping):
        _expect(Mapping, data, cls)
        return {k: revive(arguments[1], v) for k, v in data.items()}
    return _revived_leaf(cls, data)


@functools.cache
def _fields(cls: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The hints of a dataclass's fields, and which of them must be given."""
    hints, fields = _hints(cls), [f for f in dataclasses.fields(cls) if f.init]
    return {f.name: hints[f.name] for f in fields}, tuple(f.name for f in fields if _required(f))


def _revived(cls: Any, data: Any) -> Any:
    _expect(Mapping, data, cls)
    hints, required = _fields(cls)
    missing = [name for name in required if name not in data]
    unknown = [name for name in data if name not in hints]
    if missing or unknown:
        raise BadInput(
            f"{cls.__name__}: written by another version or damaged; missing {missing}, unknown {unknown!r:.200}"
        )
    values = {}
    for key, value in data.items():
        try:
            values[key] = revive(hints[key], value)
        except BadInput as error:
            raise BadInput(f"{cls.__name__}.{key}: {error}") from error
    return cls(**values)


def _revived_leaf(cls: Any, data: Any) -> Any:
    if typing.get_origin(cls) is typing.Literal:
        if data not in typing.get_args(cls):
            raise BadInput(f"not readable from {data!r:.80}{nearest('', [str(a) for a in typing.get_args(cls)])}")
        return data
    if cls is Path:
        _expect(str, data, cls)
        return Path(data)
    if cls in (int, float):
        _expect(int if cls is int else int | float, data, cls)
        if isinstance(data, bool) or not _finite(data):
            raise BadInput(f"{cls.__name__}: not readable from {data!r:.80}")
        return cls(data)
    if cls is not Any and isinstance(cls, type):
        _expect(cls, data, cls)
    return data


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
        BadInput: if it is missing, no JSON, or beyond what raybd writes; the file is left as it was.
    """
    try:
        size = path.stat().st_size
        data = None if size > JSON_BYTES else parse_json(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    except ValueError as error:
        raise BadInput(f"{path}: not readable as JSON ({error})") from error
    if size > JSON_BYTES:
        raise BadInput(f"{path}: expected at most {JSON_BYTES:,} bytes, got {size:,}")
    return data


def read_card(path: Path, *keys: str, **types: Any) -> dict[str, Any]:
    """Return the mapping in `path`.

    Raises:
        BadInput: if it cannot be read, lacks one of `keys`, or one of `types`, or that is of another type.
    """
    held = read_json(path)
    missing = [key for key in (*keys, *types) if not isinstance(held, dict) or key not in held]
    if missing or not isinstance(held, dict):
        raise BadInput(f"{path}: damaged or of another version; it lacks {', '.join(missing) or 'everything'}")
    for key, kind in types.items():
        check_type(kind, held[key], f"{path}: {key}")
    return held


def check_type(kind: Any, data: Any, what: str) -> None:
    """Refuse `data` of another type than `kind`.

    Raises:
        BadInput: if `revive` could not read it; the message begins with `what`.
    """
    try:
        revive(kind, data)
    except BadInput as error:
        raise BadInput(f"{what} is damaged: {error}") from error


def parse_json(text: bytes) -> Any:
    """Return the JSON in `text`, of which nothing is an infinite number, half a character, or deeply nested.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        data = json.loads(text.decode(), parse_constant=_no_number, parse_float=_finite_float)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count(b"[") + text.count(b"{") > JSON_DEPTH and _nested(data) > JSON_DEPTH:
        raise ValueError(f"nested more than {JSON_DEPTH} deep")
    if b"\\u" in text:  # half of a surrogate pair could be neither printed nor written again
        json.dumps(data, ensure_ascii=False).encode()
    return data


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _nested(data: Any) -> int:
    """How deep `data` is nested, at most one more than `JSON_DEPTH`."""
    layer, depth = [data], 0
    while layer and depth <= JSON_DEPTH:
        inner = [v for v in layer if isinstance(v, dict | list)]
        depth += bool(inner)
        layer = [v for each in inner for v in (each.values() if isinstance(each, dict) else each)]
        if not inner:
            break
    return depth
