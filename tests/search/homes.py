"""Where a test's study is kept: in its folder's journal, or in a database of PostgreSQL that goes with the folder."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from raybd.registry import read_json
from raybd.search.opening import DATABASE, JOURNAL
from raybd.search.searcher import OptunaDecider
from tests.cluster.postgres import Postgres
from tests.search.fakes import open_decider


@dataclass
class Home:
    """Folders below `path`, each with a search of its own."""

    path: Path

    def open(self, folder: str = "search", **changes: object) -> OptunaDecider:
        """Open the decider of a folder's search, see `open_decider`."""
        return open_decider(self.path / folder, **changes)

    def study(self, folder: str = "search") -> optuna.Study:
        """Read a folder's study with Optuna alone."""
        backend = optuna.storages.journal.JournalFileBackend(str(self.path / folder / JOURNAL))
        return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))

    def states(self, folder: str = "search") -> list[optuna.trial.TrialState]:
        """Return how every trial of a folder's study stands."""
        return [trial.state for trial in self.study(folder).trials]

    def cut_short(self, folder: str = "search") -> None:
        """Leave a half-written line in a journal, as a kill may."""
        with (self.path / folder / JOURNAL).open("ab") as journal:
            journal.write(b'{"op_code":6,"wor')

    def fingerprint(self, folder: str = "search") -> dict[str, str]:
        """Return what would change if anything were written."""
        files = (path for path in sorted((self.path / folder).rglob("*")) if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass
class DatabaseHome(Home):
    """The same, each in a database of its own."""

    server: Postgres
    _urls: dict[str, str] = field(default_factory=dict)

    def url(self, folder: str = "search") -> str:
        """Return the address of a folder's database, which is made if need be."""
        if folder not in self._urls:
            self._urls[folder] = self.server.fresh_database()
        return self._urls[folder]

    def open(self, folder: str = "search", **changes: object) -> OptunaDecider:
        """Open the decider of a folder's search."""
        return super().open(folder, **{"storage": self.url(folder), **changes})

    def study(self, folder: str = "search") -> optuna.Study:
        """Read a folder's study with Optuna alone."""
        name = read_json(self.path / folder / DATABASE)["study"]
        return optuna.load_study(study_name=name, storage=self.url(folder).replace("://", "+psycopg://"))

    def cut_short(self, folder: str = "search") -> None:
        """Leave nothing: a transaction is done or is not."""

    def fingerprint(self, folder: str = "search") -> dict[str, str]:
        """Return what would change if anything were written."""
        study = self.study(folder)
        return {**super().fingerprint(folder), "trials": repr(study.trials), "study": repr(study.user_attrs)}
