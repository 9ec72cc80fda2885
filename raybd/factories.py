"""The user's own `module:function`, taken only from the study's folder or from packages the study names."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from raybd.registry import BadInput, is_file


def load_factory(spec: str, *, folder: Path | None, packages: Sequence[str]) -> Callable[..., Any]:
    """Return the function that `spec`, a `module:function`, names.

    Raises:
        BadInput: if the module is neither a file in `folder` nor of one of `packages`, or lacks the function.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name:
        raise BadInput(f"suspect.factory: expected 'module:function', got {spec!r}")
    function = getattr(_module(module_name, folder, packages), function_name, None)
    if not callable(function):
        raise BadInput(f"suspect.factory: module '{module_name}' has no function '{function_name}'")
    return function  # type: ignore[no-any-return]


def factory_file(spec: str, folder: Path | None) -> Path | None:
    """Return the file in the study's folder that `spec` names; None where it belongs to a package."""
    parts = spec.partition(":")[0].split(".")
    if folder is None or not all(part.isidentifier() for part in parts):
        return None
    file = folder / Path(*parts).with_suffix(".py")
    return file if is_file(file) else None


def _module(name: str, folder: Path | None, packages: Sequence[str]) -> ModuleType:
    file = factory_file(name, folder)
    if file is not None:
        return _from_file(name, file.resolve(), file.resolve().parents[name.count(".")])
    if name.partition(".")[0] in packages and all(part.isidentifier() for part in name.split(".")):
        try:
            return importlib.import_module(name)
        except Exception as error:  # whatever the package raises
            raise BadInput(f"suspect.factory: package '{name}' cannot be imported ({error})") from error
    raise BadInput(
        f"suspect.factory: '{name}' is neither a file {name.replace('.', '/')}.py in the study's folder "
        f"nor of an installed package that the study names under 'packages:'"
    )


def _from_file(name: str, file: Path, folder: Path) -> ModuleType:
    """Import `file` under a name of its own, so that it neither hides nor is hidden by another module."""
    own = str(file).encode() + file.read_bytes()  # an edited file is another module
    own_name = f"raybd_study_{hashlib.sha256(own).hexdigest()[:12]}_{name.replace('.', '_')}"
    if own_name in sys.modules:
        return sys.modules[own_name]
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location(own_name, file)
    if spec is None or spec.loader is None:
        raise BadInput(f"suspect.factory: {file.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[own_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[own_name]
        raise BadInput(f"suspect.factory: {file.name} fails on import ({type(error).__name__}: {error})") from error
    return module
