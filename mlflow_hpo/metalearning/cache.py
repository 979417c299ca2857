"""What was read from MLflow before, in the user's cache folder: nothing is read twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path
from types import TracebackType

import platformdirs

FOLDER = "MLFLOW_HPO_CACHE"  # environment variable: another folder, or empty for no cache
_LARGEST = 1 << 30  # bytes of a file; beyond them it begins anew
_PATIENCE = 2.0  # seconds for another process to finish writing
_TABLE = "CREATE TABLE IF NOT EXISTS texts (run_id TEXT PRIMARY KEY, state TEXT, text TEXT) WITHOUT ROWID"


def cache_folder() -> Path | None:
    """Return the user's cache folder of this package, or what `FOLDER` says."""
    folder = os.environ.get(FOLDER, platformdirs.user_cache_dir("mlflow-hpo"))
    return Path(folder) if folder else None


class Cache:
    """One text for each run, with the state of the run that it belongs to.

    A cache that cannot be used, for whatever reason, is the same as an empty one; a file that turns out to be
    damaged is replaced by an empty one. What is put into it is written when the context ends.

    Args:
        store: whose runs these are, such as a tracking URI; only its digest is written down.
        folder: where it is kept; None for nowhere.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Cache("sqlite:///mlflow.db", Path(folder)) as cache:
    ...         cache.put("0123", "ended at noon", "what it wrote")
    ...     with Cache("sqlite:///mlflow.db", Path(folder)) as cache:
    ...         cache.get("0123", "ended at noon"), cache.get("0123", "ended at one")
    ('what it wrote', None)
    """

    def __init__(self, store: str, folder: Path | None) -> None:
        name = f"mined-{hashlib.sha256(store.encode()).hexdigest()[:16]}.db"
        self._path = None if folder is None else folder / name
        self._new: dict[str, tuple[str, str]] = {}  # state and text, by run
        self._file: tuple[int, int] | None = None  # which one is open

    def __enter__(self) -> Cache:
        self._connection = self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._written():
                self._written()  # into the file that replaced the damaged one
        finally:
            if self._connection is not None:
                self._connection.close()

    def get(self, run_id: str, state: str) -> str | None:
        """Return the text of a run in some state, None if it is not known."""
        if self._connection is None:
            return None
        query = "SELECT text FROM texts WHERE run_id = ? AND state = ?"
        try:
            row = self._connection.execute(query, (run_id, state)).fetchone()
        except sqlite3.Error as error:
            self._replace_if_damaged(error)
            return None
        return None if row is None or not isinstance(row[0], str) else row[0]

    def put(self, run_id: str, state: str, text: str) -> None:
        """Keep the text of a run, instead of that of an earlier state."""
        self._new[run_id] = (state, text)

    def _written(self) -> bool:
        """Write what is new; return False where the file was found damaged and replaced instead."""
        if self._connection is None:
            return True
        rows = [(run_id, *known) for run_id, known in self._new.items()]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            return not self._replace_if_damaged(error)
        return True

    def _replace_if_damaged(self, error: sqlite3.Error) -> bool:
        """Replace the file by an empty one if that is what an error asks for; return whether it did."""
        if not _damaged(error) or self._connection is None or self._path is None:
            return False
        self._connection.close()
        if _identity(self._path) == self._file:  # else another process has replaced it already
            _remove(self._path)
        self._connection = self._opened()
        return True

    @staticmethod
    def _connected(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=_PATIENCE)
        try:
            connection.execute(_TABLE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _opened(self) -> sqlite3.Connection | None:
        """Return a connection; a file that is damaged, or too large, is replaced by an empty one."""
        if self._path is None:
            return None
        for _ in range(2):
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if self._path.exists() and self._path.stat().st_size > _LARGEST:
                    _remove(self._path)
                connection = self._connected(self._path)
                self._file = _identity(self._path)
                return connection
            except sqlite3.Error as error:  # else it is locked, or there is no place to write
                if not _damaged(error):
                    return None
                _remove(self._path)
            except OSError:
                return None
        return None


def _damaged(error: sqlite3.Error) -> bool:
    """Whether an error tells of a file that is damaged or no database, rather than locked or out of space."""
    return type(error) is sqlite3.DatabaseError


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that has its name later; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: Path) -> None:
    """Remove a file and the journal beside it, which would be played back into a new file of that name."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
