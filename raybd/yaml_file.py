"""YAML files as plain mappings, read strictly, and where the ones that come with raybd lie."""

import math
import re
from collections import Counter
from collections.abc import Hashable
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from raybd.registry import BadInput, is_file, is_folder, nearest

FILE_BYTES = 256 * 2**10
"""A study or a space takes a few KB, and reading YAML takes seconds for each MB."""
NODES, DEPTH = 20_000, 32
"""So much may a file hold once its aliases are written out, and so deep may it be nested."""


class _StrictLoader(yaml.SafeLoader):
    """Safe, and a key given twice is an error: YAML itself would silently keep the last."""

    def construct_document(self, node: yaml.Node) -> Any:
        _written_out(node, {}, 0)  # here, because an alias costs nothing until somebody walks through it
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key, times in Counter(k for k in keys if isinstance(k, Hashable)).items() if times > 1]
            if twice:
                raise BadInput(f"line {node.start_mark.line + 1}: key '{twice[0]}' is given twice")
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many nodes `node` comes to when every alias in it is written out; a few refuse it at once."""
    at = f"line {node.start_mark.line + 1}"
    if depth > DEPTH:
        raise BadInput(f"{at}: nested more than {DEPTH} deep")
    if id(node) not in known:
        known[id(node)] = NODES  # one that holds itself never ends
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        known[id(node)] = 1 + sum(_written_out(part, known, depth + 1) for part in parts)
    if known[id(node)] > NODES:
        raise BadInput(f"{at}: more than {NODES:,} values, once its aliases are written out")
    return known[id(node)]


def _check_plain(value: Any, where: str) -> None:
    """Refuse what YAML reads as a date, bytes, a set or no number: no setting of ours is one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_plain(key, where)
            _check_plain(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_plain(inner, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{where}: expected a finite number, got {value}")
    elif isinstance(value, int) and value.bit_length() > 64:
        raise BadInput(f"{where}: expected a number of at most 64 bits, got one of {value.bit_length()}")
    elif value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise BadInput(f"{where or 'it'}: YAML reads {str(value)[:40]!r} as {kind}; put text into quotes")
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadInput(f"{where}: holds half of a character")


def _text(path: Path) -> str:
    """What is in the file, if PyYAML can be trusted to end: it reads open brackets in quadratic time."""
    if path.stat().st_size > FILE_BYTES:
        raise BadInput(f"expected at most {FILE_BYTES:,} bytes, got {path.stat().st_size:,}")
    text = path.read_text(encoding="utf-8")
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    if max(accumulate(steps), default=0) > 8 * DEPTH:
        raise BadInput(f"nested more than {DEPTH} deep")
    return text


def read_yaml(path: Path) -> Any:
    """Return what the YAML file at `path` holds: mappings, lists, text, finite numbers, truth values, null.

    Raises:
        BadInput: if it cannot be read, is no YAML, names a key twice, or holds more than any setting of ours needs.
    """
    try:
        # The loader derives from SafeLoader: no Python objects are made.
        data = yaml.load(_text(path), Loader=_StrictLoader)  # noqa: S506
        _check_plain(data, "")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML ({error})") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    except RecursionError as error:
        raise BadInput(f"{path}: nested more than {DEPTH} deep") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        # What PyYAML's own constructors raise of a tag on a value that is none of its kind, such as `!!int x`.
        raise BadInput(f"{path}: not YAML ({type(error).__name__}: {error!s:.200})") from error
    return data


def shipped_folder() -> Path:
    """Return the folder `search_spaces`: inside an installed raybd, beside the package in a checkout."""
    inside = Path(__file__).parent / "search_spaces"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "search_spaces"


def shipped(folder: Path) -> list[str]:
    """Return the names, without `.yaml`, of the files in `folder`, one of raybd's own."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_yaml(named: str, *, near: Path, shipped_in: Path, where: str) -> Path:
    """Return the file that `named` means: a path from the folder `near`, or a name in `shipped_in`.

    Raises:
        BadInput: if it is neither; the message starts with `where`.
    """
    path = near / named
    if is_file(path):
        return path
    if named in shipped(shipped_in):
        return shipped_in / f"{named}.yaml"
    if is_folder(path):
        inside = path / "study.yaml"
        raise BadInput(
            f"{where}: {str(path)[:200]} is a folder" + (f"; did you mean {inside}?" if is_file(inside) else "")
        )
    raise BadInput(f"{where}: no file {str(path)[:200]}, and no shipped '{named}'{nearest(named, shipped(shipped_in))}")
