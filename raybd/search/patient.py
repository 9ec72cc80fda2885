"""Optuna's storage in PostgreSQL, which repeats what a database that restarts did not take, without doing it twice."""

import contextlib
import json
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from raybd.registry import BadInput
from raybd.search.database import CONNECTION, KEY, DatabaseDown, Dropped, Hold, explain, place

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a database that does not answer is tried again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries; each pause is twice the one before."""


class PatientStorage(BaseStorage):
    """A study's storage whose writes outlast a restart of the database.

    Only the holder of a study writes to it. So it is read once, and from memory from then on; and what a call wrote
    although its answer was lost is found when the call is repeated. Trials go by their numbers here.
    """

    def __init__(self, url: URL, hold: Hold) -> None:
        self._hold = hold
        self._place = place(url)
        self._tables = _tables(url, hold)
        self._memory = InMemoryStorage()
        self._study = -1
        self._ids: dict[int, int] = {}  # what the tables call a trial

    def _patiently(self, call: Callable[[], T], again: Callable[[], T] | None = None) -> T:
        """Return what `call` returns, or, where it was tried before, what `again` does.

        Raises:
            DatabaseDown: if the database is away for too long.
            BadInput: if another process took the study while it was.
        """
        if self._hold.lost:
            raise DatabaseDown(f"{KEY}: PostgreSQL at {self._place} was given up")
        pause, deadline, attempt = FIRST_PAUSE, 0.0, call
        while True:
            try:
                self._hold.check()
                return attempt()
            except Dropped as error:
                deadline = deadline or time.monotonic() + PATIENCE
                if time.monotonic() + pause > deadline:
                    self._hold.lost = True
                    raise DatabaseDown(
                        f"{KEY}: PostgreSQL at {self._place} has not answered for {PATIENCE:.0f} s "
                        f"({explain(error)}); nothing is lost"
                    ) from error
            except BadInput:
                self._hold.lost = True
                raise
            time.sleep(pause)
            pause, attempt = min(2 * pause, LONGEST_PAUSE), again or call

    def holds(self, study_name: str) -> bool:
        """Whether the database has this study."""
        return study_name in [study.study_name for study in self._patiently(self._tables.get_all_studies)]

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Return the study of this name, made if need be; the storage is of no other study from now on."""
        assert study_name is not None
        with contextlib.suppress(DuplicatedStudyError):  # begun earlier, or just now without an answer
            self._patiently(lambda: self._tables.create_new_study(directions, study_name))
        self._study = self._patiently(lambda: self._tables.get_study_id_from_name(study_name))
        study = self._memory.create_new_study(directions, study_name)
        for key, value in self._patiently(lambda: self._tables.get_study_user_attrs(self._study)).items():
            self._memory.set_study_user_attr(study, key, _plain(value))
        for key, value in self._patiently(lambda: self._tables.get_study_system_attrs(self._study)).items():
            self._memory.set_study_system_attr(study, key, _plain(value))
        for trial in self._patiently(lambda: self._tables.get_all_trials(self._study, deepcopy=False)):
            self._memory.create_new_trial(study, trial)
        return study

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See `BaseStorage`."""
        number = self._memory.get_n_trials(study_id)

        def create() -> int:
            return self._tables.create_new_trial(self._study, template_trial)

        def find_or_create() -> int:
            try:
                return self._tables.get_trial_id_from_study_id_trial_number(self._study, number)
            except KeyError:
                return create()

        self._ids[number] = self._patiently(create, find_or_create)
        return self._memory.create_new_trial(study_id, template_trial)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `BaseStorage`."""
        row = self._row(trial_id)

        def change() -> bool:
            return self._tables.set_trial_state_values(row, state, values)

        def change_unless_changed() -> bool:
            return self._tables.get_trial(row).state == state or change()

        return self._patiently(change, change_unless_changed) and self._memory.set_trial_state_values(
            trial_id, state, values
        )

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See `BaseStorage`."""
        row = self._row(trial_id)  # a value that is already there stays
        self._patiently(lambda: self._tables.set_trial_param(row, param_name, param_value_internal, distribution))
        self._memory.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        row = self._row(trial_id)
        self._patiently(lambda: self._tables.set_trial_user_attr(row, key, value))
        self._memory.set_trial_user_attr(trial_id, key, _plain(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        row = self._row(trial_id)
        self._patiently(lambda: self._tables.set_trial_system_attr(row, key, value))
        self._memory.set_trial_system_attr(trial_id, key, _plain(value))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See `BaseStorage`."""
        row = self._row(trial_id)
        self._patiently(lambda: self._tables.set_trial_intermediate_value(row, step, intermediate_value))
        self._memory.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        self._patiently(lambda: self._tables.set_study_user_attr(self._study, key, value))
        self._memory.set_study_user_attr(study_id, key, _plain(value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        self._patiently(lambda: self._tables.set_study_system_attr(self._study, key, value))
        self._memory.set_study_system_attr(study_id, key, _plain(value))

    def delete_study(self, study_id: int) -> None:
        """See `BaseStorage`."""
        self._patiently(lambda: self._tables.delete_study(self._study))
        self._memory.delete_study(study_id)

    def remove_session(self) -> None:
        """Close the connections to the database."""
        self._tables.remove_session()
        self._tables.engine.dispose()

    def _row(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._patiently(
                lambda: self._tables.get_trial_id_from_study_id_trial_number(self._study, number)
            )
        return self._ids[number]

    def get_study_id_from_name(self, study_name: str) -> int:
        """See `BaseStorage`."""
        return self._memory.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """See `BaseStorage`."""
        return self._memory.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See `BaseStorage`."""
        return self._memory.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See `BaseStorage`."""
        return self._memory.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See `BaseStorage`."""
        return self._memory.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        """See `BaseStorage`; the one study that was opened."""
        return self._memory.get_all_studies()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See `BaseStorage`."""
        return self._memory.get_trial(trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See `BaseStorage`."""
        return self._memory.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See `BaseStorage`."""
        return self._memory.get_all_trials(study_id, deepcopy, states)


def _plain(value: Any) -> Any:
    """What a value is when it is read back."""
    return json.loads(json.dumps(value))


def _tables(url: URL, hold: Hold) -> RDBStorage:
    """Optuna's tables, made if need be, whose outages are raised as `Dropped`.

    Raises:
        DatabaseDown: if the database goes away meanwhile, or does not let us in time.
        BadInput: if it refuses.
    """
    import psycopg

    try:
        with hold.making_tables():
            tables = RDBStorage(
                url.render_as_string(),
                engine_kwargs={"pool_pre_ping": True, "pool_size": 2, "connect_args": dict(CONNECTION)},
            )
    except (SQLAlchemyError, StorageInternalError, RuntimeError, psycopg.Error) as error:
        cause = error.__cause__ or error
        if isinstance(getattr(cause, "orig", cause), psycopg.OperationalError):
            raise DatabaseDown(
                f"{KEY}: PostgreSQL at {place(url)} did not answer while Optuna's tables were looked at "
                f"({explain(cause)})"
            ) from error
        raise BadInput(
            f"{KEY}: PostgreSQL at {place(url)} is not fit for Optuna's tables ({explain(cause)})"
        ) from error
    event.listen(tables.engine, "handle_error", _dropped)
    return tables


def _dropped(context: ExceptionContext) -> BaseException | None:
    """Tell an outage apart from a mistake, before Optuna does: it repeats some calls, blindly, and hides the others."""
    driver = context.dialect.loaded_dbapi
    outage = context.is_disconnect or isinstance(context.original_exception, driver.OperationalError)
    return Dropped(explain(context.original_exception)) if outage and not context.is_pre_ping else None
