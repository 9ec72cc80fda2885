"""MLflow's own database in a run folder goes where the folder goes: it names its artifacts by where they lie now."""

import contextlib
import sqlite3
from pathlib import Path

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Where MLflow keeps absolute addresses of artifacts."""
_WAIT_SECONDS = 10.0
"""So long for whoever holds the database locked."""


def follow(database: Path, *, experiment: str, root: str) -> None:
    """Let `database` name the artifacts of an experiment under `root`, if it names them where the folder was before.

    Raises:
        sqlite3.DatabaseError: if the file is no database, or somebody keeps it locked.
    """
    if not database.is_file():
        return
    closing = contextlib.closing(sqlite3.connect(database, timeout=_WAIT_SECONDS))
    with closing as held, held:
        tables = {name for (name,) in held.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in tables:
            return  # MLflow has not begun it
        found = held.execute("SELECT artifact_location FROM experiments WHERE name = ?", [experiment]).fetchone()
        if found is None or found[0] in (None, root):
            return
        for table, column in (each for each in _ADDRESSES if each[0] in tables):
            held.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of the table above
                f"WHERE substr({column} || '/', 1, ?) = ?",
                [root, len(found[0]) + 1, len(found[0]) + 1, f"{found[0]}/"],
            )
