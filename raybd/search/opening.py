"""How a search's study is opened, in its journal or in PostgreSQL: found and checked to be the same, or begun."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from raybd.registry import BadInput, check_type, digest_of, read_card, write_json
from raybd.search.database import KEY, Hold, database_url, place
from raybd.search.journal import HeldJournal
from raybd.search.patient import PatientStorage
from raybd.search.records import Objective
from raybd.search.scrutiny import check_lines

JOURNAL = "journal.log"
DATABASE = "database.json"
"""Says, in the folder of a search that is kept in PostgreSQL, which study of the database it is."""
_ATTRIBUTES: Mapping[str, Any] = {"identity": dict[str, Any], "trials": int, "warm": list[dict[str, Any]]}
"""What the study says of itself, and of what type."""
_NOTE: Mapping[str, Any] = {"name": str, "study": str, "database": str, "identity": dict[str, Any]}
"""The same of what the folder notes of a study in PostgreSQL."""


class Held(Protocol):
    """What keeps other processes from a study as long as we search in it."""

    @property
    def closed(self) -> bool:
        """Whether it was let go."""

    @property
    def lost(self) -> bool:
        """Whether it was taken from us, so that nothing more can be written."""

    def sync(self) -> None:
        """Return when all that was written is on a disk."""

    def close(self) -> None:
        """Let the study go."""


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study that this process holds; `trials` is its budget, `warm` the settings it was warmed up with."""

    study: optuna.Study
    storage: BaseStorage
    held: Held
    trials: int
    warm: tuple[dict[str, Any], ...]

    def close(self) -> None:
        """Let the study go."""
        self.storage.remove_session()
        self.held.close()


def begun(folder: Path) -> bool:
    """Whether a search has begun in `folder`."""
    return (folder / JOURNAL).is_file() or (folder / DATABASE).is_file()


def open_study(
    folder: Path,
    *,
    name: str,
    identity: Mapping[str, Any],
    objectives: Mapping[str, Objective],
    trials: int,
    extend: int,
    warm: Sequence[Mapping[str, Any]],
    storage: str | None = None,
    check: Callable[[optuna.Study], None] = lambda study: None,
) -> OpenStudy:
    """Return the study of the search in `folder`, begun or found, held against other processes.

    Args:
        folder: of the search; made if need be.
        name: of the study.
        identity: what makes it the same search, as plain JSON.
        objectives: the figures to steer by.
        trials: the budget; a study once extended keeps the larger one.
        extend: so many more than that.
        warm: settings of earlier searches to try first; a study begun earlier has its own.
        storage: address of the PostgreSQL that keeps the study; without one a journal in the folder does.
        check: looks at the study before anything is added to it; what it raises is passed on.

    Raises:
        BadInput: if the folder holds a study of something else or with another warm start, which is left as it was;
            if another process is searching there.
        DatabaseDown: if the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    held: Held
    if storage is None:
        held, kept_in, study_name = _in_journal(folder, name, identity)
    else:
        held, kept_in, study_name = _in_database(folder, name, identity, storage)
    try:
        study = _study(kept_in, study_name, objectives)
        check(study)
        budget = max(int(study.user_attrs.get("trials", 0)), trials) + extend
        warmed = _warm(study, warm, folder)
        for key, value in (("identity", dict(identity)), ("trials", budget), ("warm", warmed)):
            if study.user_attrs.get(key) != value:
                study.set_user_attr(key, value)
        if storage is not None:
            _remember(folder, name, identity, study_name, storage)
    except BaseException:
        kept_in.remove_session()
        held.close()
        raise
    return OpenStudy(study=study, storage=kept_in, held=held, trials=budget, warm=tuple(warmed))


def _study(kept_in: BaseStorage, name: str, objectives: Mapping[str, Objective]) -> optuna.Study:
    """The study, loaded or made: making one again would add a line to its journal before anybody has looked at it."""
    try:
        return optuna.load_study(storage=kept_in, study_name=name)
    except KeyError:
        directions = [objective.direction for objective in objectives.values()]
        return optuna.create_study(storage=kept_in, study_name=name, directions=directions, load_if_exists=True)


def _in_journal(folder: Path, name: str, identity: Mapping[str, Any]) -> tuple[HeldJournal, BaseStorage, str]:
    if (folder / DATABASE).is_file():
        home = read_card(folder / DATABASE, database=str)["database"]
        raise BadInput(f"{folder}: this search is kept in PostgreSQL at {home}; go on with {KEY} naming it")
    path = folder / JOURNAL
    kept = _kept_attributes(path, name)
    if kept is not None and "identity" in kept:  # without it, a kill came before the first trial
        _check_identity(kept["identity"], identity, folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = HeldJournal.hold(path)
    try:
        return held, JournalStorage(held), name
    except BaseException:
        held.close()
        raise


def _in_database(folder: Path, name: str, identity: Mapping[str, Any], storage: str) -> tuple[Hold, BaseStorage, str]:
    """A study whose folder was lost with its machine is found again by what it searches: name and identity."""
    url = database_url(storage)
    if (folder / JOURNAL).is_file():
        raise BadInput(f"{folder}: this search is kept in its journal; go on without {KEY}, or use another --runs")
    known = read_card(folder / DATABASE, **_NOTE) if (folder / DATABASE).is_file() else {}
    if known:
        if known["name"] != name:
            raise BadInput(f"{folder}: holds the study '{known['name']}', not '{name}'")
        _check_identity(known["identity"], identity, folder)
    study = f"{name}-{digest_of(identity)[:16]}"
    held = Hold(url, study)
    held.take()
    try:
        kept_in = PatientStorage(url, held)
        found = not known or kept_in.holds(study)
    except BaseException:
        held.close()
        raise
    if not found:
        kept_in.remove_session()
        held.close()
        raise BadInput(
            f"{folder}: its search began in PostgreSQL at {known['database']}, and {place(url)} does not hold "
            f"the study '{study}'; name that database, restore it, or use another --runs for a new search"
        )
    return held, kept_in, study


def _remember(folder: Path, name: str, identity: Mapping[str, Any], study: str, storage: str) -> None:
    """Note in the folder where its search is kept, once the database has it."""
    note = {"name": name, "study": study, "database": place(database_url(storage)), "identity": dict(identity)}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DATABASE).is_file() or read_card(folder / DATABASE) != note:
        write_json(folder / DATABASE, note)


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
            check_type(kind, kept[key], f"{path}: its {key}")
    return kept
