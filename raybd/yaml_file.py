"""YAML files as plain mappings, read strictly, and where the ones that come with raybd lie."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from raybd.registry import BadInput, nearest


class _StrictLoader(yaml.SafeLoader):
    """Safe, and a key given twice is an error: YAML itself would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for at, key in enumerate(keys) if key in keys[:at]), None)
        if twice is not None:
            raise BadInput(f"line {node.start_mark.line + 1}: key '{twice}' is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return what the YAML file at `path` holds.

    Raises:
        BadInput: if it cannot be read, is no YAML, or names a key twice.
    """
    try:
        # The loader derives from SafeLoader: no Python objects are made.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML ({error})") from error
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


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
    if path.is_file():
        return path
    if named in shipped(shipped_in):
        return shipped_in / f"{named}.yaml"
    raise BadInput(f"{where}: no file {path}, and no shipped '{named}'{nearest(named, shipped(shipped_in))}")
