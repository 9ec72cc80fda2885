"""How a search's study is opened in its journal: found, checked to be of the same search, or begun."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raybd.registry import BadInput, revive
from raybd.search.journal import HeldJournal
from raybd.search.records import Objective
from raybd.search.scrutiny import check_lines

JOURNAL = "journal.log"
_ATTRIBUTES: Mapping[str, Any] = {"identity": dict[str, Any], "trials": int, "warm": list[dict[str, Any]]}
"""What the study says of itself, and of what type."""


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study whose journal this process holds; `trials` is its budget, `warm` the settings it was warmed up with."""

    study: optuna.Study
    storage: JournalStorage
    journal: HeldJournal
    trials: int
    warm: tuple[dict[str, Any], ...]


def open_study(
    folder: Path,
    *,
    name: str,
    identity: Mapping[str, Any],
    objectives: Mapping[str, Objective],
    trials: int,
    extend: int,
    warm: Sequence[Mapping[str, Any]],
    check: Callable[[optuna.Study], None] = lambda study: None,
) -> OpenStudy:
    """Return the study in `folder`, begun or found, held against other processes.

    Args:
        folder: where the journal lies; made if need be.
        name: of the study.
        identity: what makes it the same search, as plain JSON.
        objectives: the figures to steer by.
        trials: the budget; a study once extended keeps the larger one.
        extend: so many more than that.
        warm: settings of earlier searches to try first; a study begun earlier has its own.
        check: looks at the study before anything is added to it; what it raises is passed on.

    Raises:
        BadInput: if the folder holds a study of something else or with another warm start, which is left as it was;
            if another process is searching there.
    """
    path = folder / JOURNAL
    kept = _kept_attributes(path, name)
    if kept is not None and "identity" in kept:  # without it, a kill came before the first trial
        _check_identity(kept["identity"], identity, folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = HeldJournal.hold(path)
    try:
        storage, study = _study(held, name, objectives, begun=kept is not None)
        check(study)
        budget = max(int(study.user_attrs.get("trials", 0)), trials) + extend
        warmed = _warm(study, warm, folder)
        for key, value in (("identity", dict(identity)), ("trials", budget), ("warm", warmed)):
            if study.user_attrs.get(key) != value:
                study.set_user_attr(key, value)
    except BaseException:
        held.close()
        raise
    return OpenStudy(study=study, storage=storage, journal=held, trials=budget, warm=tuple(warmed))


def _check_identity(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        raise BadInput(
            f"{folder}: holds a study of another {' and '.join(changed)}; "
            "resume it with what it was begun with, or give the new study another name"
        )


def _warm(study: optuna.Study, given: Sequence[Mapping[str, Any]], folder: Path) -> list[Any]:
    """The warm start a study was begun with; for a new one what is given."""
    asked = [dict(setting) for setting in given]
    kept: list[Any] = study.user_attrs.get("warm", asked)
    if asked and kept != asked:
        raise BadInput(f"{folder}: this search began with another warm start; go on without --warm-start")
    return kept


def _kept_attributes(path: Path, name: str) -> dict[str, Any] | None:
    """What the study in the journal says of itself; None if there is none. The journal is only read."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    check_lines(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        names = [study.study_name for study in storage.get_all_studies()]
        kept = storage.get_study_user_attrs(storage.get_study_id_from_name(name)) if name in names else None
    except Exception as error:  # whatever Optuna says of a log that is none of its own
        raise BadInput(f"{path}: not readable as a journal of a search ({error})") from error
    if kept is None and (names or b"\n" in path.read_bytes()):
        held = f"the study '{names[0]}'" if names else "no study"
        raise BadInput(f"{path}: holds {held}, not '{name}'")
    for key, kind in _ATTRIBUTES.items():
        if kept is not None and key in kept:
            try:
                revive(kind, kept[key])
            except BadInput as error:
                raise BadInput(f"{path}: its {key} is damaged: {error}") from error
    return kept


def _study(
    journal: HeldJournal, name: str, objectives: Mapping[str, Objective], *, begun: bool
) -> tuple[JournalStorage, optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(journal)
    if begun:  # creating it again would add a line to the journal before anybody has looked at it
        return storage, optuna.load_study(storage=storage, study_name=name)
    directions = [objective.direction for objective in objectives.values()]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    return storage, study
