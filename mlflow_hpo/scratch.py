"""Folders for what is needed only while a process lives."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = "mlflow-hpo-"
LOCK = ".in-use"  # whoever holds a lock on this file in a folder still needs the folder


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that is removed at the end, and remove those of processes that were killed before."""
    remove_left_behind()
    # what is still written there must not make a failure of a study that went well
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _held(folder):
            yield folder


@contextlib.contextmanager
def shared_folder(name: str) -> Iterator[Path]:
    """Make a folder for the processes on this machine that ask for the same name.

    The last one to leave removes it. If they are killed, whoever makes one of these folders next removes it.
    """
    remove_left_behind()
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{name}"
    if fcntl is None:
        folder.mkdir(exist_ok=True)
        yield folder
        return
    with _joined(folder) as lock:
        try:
            yield folder
        finally:
            with contextlib.suppress(BlockingIOError):  # others are still there
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _joined(folder: Path) -> IO[str]:
    """Return the lock of a shared folder, held; the folder is there as long as it is."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # who was the last has removed it meanwhile
            file = (folder / LOCK).open("a")
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is_there(folder / LOCK, file):
                return file
            file.close()


def _is_there(path: Path, file: IO[str]) -> bool:
    """Whether a path still leads to an open file."""
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))


def remove_left_behind() -> None:
    """Remove the scratch folders of this user whose processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Tell other processes that a folder is in use; however this one ends, its lock ends with it."""
    if fcntl is None:
        yield
        return
    unlocked = folder / f"{LOCK}.new"
    with unlocked.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        unlocked.rename(folder / LOCK)  # nobody ever sees it there without its lock
        yield


def _is_abandoned(folder: Path) -> bool:
    if fcntl is None or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return False
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
