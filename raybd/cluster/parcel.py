"""What of a study travels to the cluster: its file, the small files it names, and its user's Python files."""

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.factories import factory_file
from raybd.registry import BadInput
from raybd.settings import StudySettings, study_file
from raybd.settings.sections import DataSettings, UpstreamSettings
from raybd.sources import TORCHVISION

MAX_FILE, MAX_ALL = 10 * 2**20, 100 * 2**20
"""Bytes. Ray keeps a working directory in the memory of the head, and refuses one of a few hundred MiB."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """The files that travel, by their place in the study's folder, and the paths the cluster has to have itself."""

    study: str
    files: dict[str, Path]
    elsewhere: tuple[str, ...]

    def unpack(self, folder: Path) -> None:
        """Copy the files into `folder`, each at its place; what a link points to is copied."""
        for place, source in self.files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / place)


def pack(settings: StudySettings) -> Parcel:
    """Return what of a study travels.

    That is the study's file; of the files and folders it names by a path from its folder (space, data, weights,
    trigger) what is small; and where it has a factory of its own, the Python files beside the study, in the factory's
    folder, and in packages beside the study (folders with an `__init__.py`). Nothing else: no run folders, no
    environments, no hidden files. What it names by an absolute path has to be at that path on the cluster.

    Raises:
        BadInput: naming each file that is missing, outside the study's folder, or too large, with its key.
    """
    _check(settings)
    study = study_file(settings.given)
    named = dict(_named(settings))
    elsewhere = sorted({str(path) for path in named.values() if path.is_absolute()})
    files, faults = {study.name: study}, []
    for key, path in named.items():
        if path.is_absolute():
            continue
        try:
            files |= _within(settings.folder, path, key)
        except BadInput as error:
            faults.append(str(error))
    files |= {str(path.relative_to(settings.folder)): path for path in _modules(settings)}
    faults += _too_large(files, {str(path): key for key, path in named.items()})
    if faults:
        raise BadInput("\n".join(faults))
    return Parcel(study=study.name, files=files, elsewhere=tuple(elsewhere))


def _check(settings: StudySettings) -> None:
    """Refuse what is no study for a cluster."""
    if settings.resources.executor == "local":
        raise BadInput("resources.executor: 'local' would compute on the head, beside the cluster; expected 'ray'")
    uri = settings.tracking.uri or ""
    if uri.startswith("sqlite") and not uri.partition(":///")[2].startswith("/"):
        raise BadInput(
            f"tracking.uri: {uri} would be a file in the job's working directory, which goes with the job; expected "
            "an MLflow server, an absolute path on storage, or null for SQLite in the run folder"
        )


def _named(settings: StudySettings) -> Iterator[tuple[str, Path]]:
    """The paths a study names, by key: relative ones from its folder, absolute ones as they are."""
    if (settings.folder / settings.space).is_file():
        yield "space", Path(settings.space)
    if settings.suspect is not None and not settings.suspect.weights.startswith("models:/"):
        yield "suspect.weights", Path(settings.suspect.weights)
    for key, section in (("data", settings.data), ("upstream", settings.upstream)):
        if section is not None:
            yield from _of_source(key, section, settings.folder)
    for name in ("clean_set", "selection", "test", "members"):
        part = getattr(settings.data, name)
        if part is not None and part.origin.endswith(".npz"):
            yield f"data.{name}.from", Path(part.origin)
    for key, component in (("attack", settings.attack), ("trigger", settings.trigger)):
        for inner, path in _paths_in(component, key):
            inside = path.is_relative_to(settings.folder)  # the settings have anchored it there
            yield inner, path.relative_to(settings.folder) if inside else path


def _of_source(key: str, section: DataSettings | UpstreamSettings, folder: Path) -> Iterator[tuple[str, Path]]:
    source = section.source
    if section.root is not None:
        yield f"{key}.root", Path(section.root)
    elif source is not None and source != "digits" and (source not in TORCHVISION or (folder / source).is_dir()):
        yield f"{key}.source", Path(source)


def _paths_in(component: Any, key: str) -> Iterator[tuple[str, Path]]:
    if not dataclasses.is_dataclass(component):
        return
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if isinstance(value, Path):
            yield f"{key}.{field.name}", value
        else:
            yield from _paths_in(value, f"{key}.{field.name}")


def _within(folder: Path, path: Path, key: str) -> dict[str, Path]:
    """The file at a relative path, or all files in the folder there; hidden ones stay."""
    whole = folder / path
    if ".." in path.parts:
        raise BadInput(f"{key}: {path} lies outside the study's folder, of which nothing else travels{_WAY_OUT}")
    if whole.is_file():
        return {str(path): whole}
    if not whole.is_dir():
        raise BadInput(f"{key}: no file or folder {whole}")
    return {str(p.relative_to(folder)): p for p in whole.rglob("*") if p.is_file() and not _hidden(p, whole)}


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


_WAY_OUT = "; put it where every machine of the cluster sees it, and name it by its absolute path"


def _too_large(files: dict[str, Path], keys: dict[str, str]) -> list[str]:
    """What is wrong with the sizes of the files, in the words of the keys that name them."""
    sizes = {place: path.stat().st_size for place, path in files.items()}
    large = [place for place, size in sizes.items() if size > MAX_FILE]
    faults = [
        f"{_key_of(place, keys)}{place} has {sizes[place] / 2**20:,.0f} MiB, and files over {MAX_FILE >> 20} MiB do "
        f"not travel{_WAY_OUT}"
        for place in large
    ]
    if not faults and sum(sizes.values()) > MAX_ALL:
        most = max(sizes, key=lambda place: sizes[place])
        where = keys.get(str(Path(most).parent), _key_of(most, keys)).removesuffix(": ")
        faults.append(
            f"{where or 'the study'}: {len(files):,} files with {sum(sizes.values()) / 2**20:,.0f} MiB together, and "
            f"over {MAX_ALL >> 20} MiB do not travel{_WAY_OUT}"
        )
    return faults


def _key_of(place: str, keys: dict[str, str]) -> str:
    """The key that names a file or a folder around it, as the beginning of a message."""
    around = [str(p) for p in (Path(place), *Path(place).parents)]
    return next((f"{keys[p]}: " for p in around if p in keys), "")


def _modules(settings: StudySettings) -> Iterator[Path]:
    """The user's Python files: none without a factory in the study's folder."""
    chosen = settings.suspect or settings.model
    factory = None if chosen is None or chosen.factory is None else factory_file(chosen.factory, settings.folder)
    if factory is None:
        return
    yield from settings.folder.glob("*.py")
    yield from factory.parent.glob("*.py")
    for package in [path.parent for path in settings.folder.glob("*/__init__.py")]:
        yield from (path for path in package.rglob("*.py") if not _hidden(path, settings.folder))
