"""Spool: values that the tracking store does not take at the moment, in a file on the local disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs
import psutil

from mlflow_hpo.tracking.batch import Batch, parsed

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

FOLDER = "MLFLOW_HPO_SPOOL"  # environment variable: another folder
LARGEST = 1 << 28  # bytes of a file
SCHEMA = 1
_DIGITS = 12  # of a number in the first line, which is overwritten in place
_NAME = re.compile(r"\d{8}T\d{6}-\d+-[0-9a-f]{8}\.jsonl")


def spool_folder() -> Path:
    """Return the user's folder of spools, with a folder for each study."""
    return Path(os.environ.get(FOLDER) or Path(platformdirs.user_state_dir("mlflow-hpo")) / "spool")


class Spool:
    """A queue of batches in a file that outlives the process: JSON lines, each on the disk before it counts.

    The file comes with the first batch. It is locked while its process lives, and readable by its owner only.
    Its first line says how far the store has been given what it holds. Not thread-safe.

    Args:
        folder: where it is to be; created if need be.
        store: which tracking store the values are for, without password.
        study: the parent run.
        largest: bytes that the file may have.
    """

    def __init__(self, folder: Path, *, store: str, study: str, largest: int | None = None) -> None:
        self._folder = folder
        self._header = {"schema": SCHEMA, "store": store, "study": study, "pid": os.getpid()}
        self._largest = LARGEST if largest is None else largest
        self._file: BinaryIO | None = None
        self._size = 0
        self._read = 0
        self._mark = 0  # where in the file it stands how far the store has it
        self.path: Path | None = None

    @property
    def unread(self) -> bool:
        """Whether there is something that was not read yet."""
        return self._read < self._size

    def append(self, batches: Iterable[tuple[str, Batch]]) -> bool:
        """Put batches of runs on the disk; return whether there was room. All of them or none.

        Raises:
            OSError: the disk is full, or the folder cannot be used.
        """
        text = b"".join(line for run_id, batch in batches for line in batch.lines(run_id))
        if self._size + len(text) > self._largest:
            return False
        file = self._file or self._create()
        self._write(file, text)
        return True

    def read(self, values: int) -> dict[str, Batch]:
        """Return the next batches by run, of about so many values; none when all were read."""
        found: dict[str, Batch] = {}
        count = 0
        if self.path is None:
            return found
        with self.path.open("rb") as file:
            file.seek(self._read)
            while count < values and self._read < self._size:
                line = file.readline()
                if not line:
                    self._read = self._size
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError):
                    run_id, batch = parsed(line)
                    found.setdefault(run_id, Batch()).add(batch)
                    count += len(batch)
        return found

    @property
    def position(self) -> int:
        """How far it was read."""
        return self._read

    def written(self, position: int) -> None:
        """Note that the store has all that was read up to there: `sync` need not write it again."""
        if self.path is not None:
            with contextlib.suppress(OSError), self.path.open("r+b", buffering=0) as file:
                file.seek(self._mark)
                file.write(_number(position))

    def remove(self) -> None:
        """Remove the file; the next batch begins another one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of another writer
                self._folder.rmdir()
        self.close()

    def close(self) -> None:
        """Leave the file to `sync`."""
        if self._file is not None:
            self._file.close()
        self._file, self.path, self._size, self._read = None, None, 0, 0

    def _create(self) -> BinaryIO:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        path = self._folder / name
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        file = os.fdopen(handle, "r+b", buffering=0)
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            first = json.dumps({**self._header, "written": _number(0).decode()}).encode() + b"\n"
            self._mark = len(first) - len(b'"}\n') - _DIGITS
            self._write(file, first)
            with contextlib.suppress(OSError):  # the file's name is to survive a power failure, too
                folder = os.open(self._folder, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._file, self.path, self._read = file, path, self._size
        return file

    def _write(self, file: BinaryIO, text: bytes) -> None:
        try:
            left = memoryview(text)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # no half of a line may stay
                file.truncate(self._size)
            raise
        self._size += len(text)


def _number(offset: int) -> bytes:
    """Return an offset in as many bytes as any other."""
    return b"%0*d" % (_DIGITS, offset)


def _whole(header: Mapping[str, Any], field: str) -> int:
    """Return a whole number of a first line, which may have been tampered with; raises ValueError."""
    value = header.get(field, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if type(value) is int and value >= 0:
        return value
    raise ValueError(f"{field} must be a whole number, got {value!r:.40}")


class LeftSpool:
    """A spool whose process has ended; locked while it is open.

    Raises:
        BlockingIOError: its process lives.
        ValueError: it is no spool.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        self._file = os.fdopen(handle, "rb")
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or (hasattr(os, "getuid") and about.st_uid != os.getuid()):
                raise ValueError("not a file of one's own")
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header: Any = json.loads(self._file.readline() or b"null")
            if not isinstance(header, dict) or header.get("schema") != SCHEMA:
                raise ValueError("not a spool of this version")
            if fcntl is None and psutil.pid_exists(_whole(header, "pid")):
                raise BlockingIOError("its process lives")
            self.store = str(header.get("store", ""))
            self.study = str(header.get("study", ""))
            self._file.seek(max(self._file.tell(), _whole(header, "written")))
        except BaseException:
            self._file.close()
            raise
        self.broken = 0  # lines that could not be read, the torn last one apart

    def __enter__(self) -> LeftSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self, values: int) -> Iterator[dict[str, Batch]]:
        """Yield all batches by run, in order, of about so many values at a time."""
        found: dict[str, Batch] = {}
        count = 0
        for line in self._file:
            try:
                run_id, batch = parsed(line)
            except ValueError:
                self.broken += line.endswith(b"\n")
                continue
            found.setdefault(run_id, Batch()).add(batch)
            count += len(batch)
            if count >= values:
                yield found
                found, count = {}, 0
        if found:
            yield found

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is more in it
            self.path.parent.rmdir()


def left_files(folder: Path) -> list[Path]:
    """Return the files of spools below a folder, the oldest first."""
    files = [*folder.glob("*.jsonl"), *folder.glob("*/*.jsonl")]
    return sorted((path for path in files if _NAME.fullmatch(path.name)), key=lambda path: path.name)
