"""How many threads the models take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 - its library must be loaded before the controller looks for it
from threadpoolctl import ThreadpoolController

_LOCK = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Work with matrices in one thread.

    They are small and the trainings want the cores; besides, more threads round differently, and a search is
    to be the same on every machine. The number is the process's, so that one thread works at a time.
    """
    with _LOCK, _controller().limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
