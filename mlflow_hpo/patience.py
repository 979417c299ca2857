"""Patience: for how long MLflow tries what a store does not do at once."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

IMPATIENT = {  # MLflow's own settings for stores that have not been seen to work yet
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "20",
}


class _Lowered:
    """Which of the settings are lowered at present, and by how many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by: dict[str, int] = {}

    def lower(self) -> list[str]:
        """Lower the settings that the user has not made; return which."""
        with self._lock:
            names = [name for name in IMPATIENT if name in self._by or name not in os.environ]
            for name in names:
                self._by[name] = self._by.get(name, 0) + 1
                os.environ[name] = IMPATIENT[name]
            return names

    def restore(self, names: list[str]) -> None:
        """Take that back, but what another thread needs still."""
        with self._lock:
            for name in names:
                self._by[name] -= 1
                if not self._by[name]:
                    del self._by[name]
                    os.environ.pop(name, None)

    def left_out(self) -> dict[str, str]:
        """Return the environment without them."""
        with self._lock:
            return {name: value for name, value in os.environ.items() if name not in self._by}


_LOWERED = _Lowered()
_RETRIES = logging.getLogger("urllib3.connectionpool")


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Let MLflow give up early, but where the user has said how patient it is to be."""
    names = _LOWERED.lower()
    level = _RETRIES.level
    quiet_retries()  # the error that comes of them tells enough
    try:
        yield
    finally:
        _RETRIES.setLevel(level)
        _LOWERED.restore(names)


def quiet_retries() -> None:
    """Let urllib3 say nothing of its retries from now on, for commands that tell of outages themselves."""
    _RETRIES.setLevel(logging.ERROR)


def lasting_environment() -> dict[str, str]:
    """Return the environment of a process that begins now: it is not impatient because this one is."""
    return _LOWERED.left_out()
