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

    A cache that cannot be used, for whatever reason, is the same as an empty one. What is put into it is
    written when the context ends.

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

    def __enter__(self) -> Cache:
        self._connection = self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is None:
            return
        rows = [(run_id, *known) for run_id, known in self._new.items()]
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connection), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    def get(self, run_id: str, state: str) -> str | None:
        """Return the text of a run in some state, None if it is not known."""
        if self._connection is None:
            return None
        query = "SELECT text FROM texts WHERE run_id = ? AND state = ?"
        try:
            row = self._connection.execute(query, (run_id, state)).fetchone()
        except sqlite3.Error:
            return None
        return None if row is None or not isinstance(row[0], str) else row[0]

    def put(self, run_id: str, state: str, text: str) -> None:
        """Keep the text of a run, instead of that of an earlier state."""
        self._new[run_id] = (state, text)

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
                    self._path.unlink()
                return self._connected(self._path)
            except sqlite3.OperationalError:  # locked, or no place to write
                return None
            except sqlite3.DatabaseError:
                self._path.unlink(missing_ok=True)
            except OSError:
                return None
        return None
