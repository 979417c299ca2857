"""Processes: interpreters like this one, and commands that end with all that they start."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.launchers import guard

TICK = 0.05  # seconds between two looks whether a process has ended

logger = logging.getLogger(__name__)


def own_python(code: str, *options: str) -> list[str]:
    """Return the command line of an interpreter like this one that finds the same modules and runs `code`."""
    return [sys.executable, *options, "-c", f"import sys; sys.path[:] = {import_path()!r}; {code}"]


def import_path() -> list[str]:
    """Return where this process looks for modules, without the entries that Python itself passes over."""
    return [each for each in sys.path if isinstance(each, str)]


def signal_name(number: int) -> str:
    """Return a signal's name, or its number where it has none, as those for real time.

    >>> signal_name(9), signal_name(40)
    ('SIGKILL', '40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class Guard:
    """Sees to it that no group of processes outlives this one, whatever ends it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(guard.__file__)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is not meant for it
            text=True,
            bufsize=1,
        )

    def disown(self) -> None:
        """In a process forked from this one: close the pipe, or the guard waits for its end, too."""
        if self._process.stdin is not None:
            os.close(self._process.stdin.fileno())  # what is left in a buffer is not its to write

    def watch(self, group: int, ending: Sequence[str] = ()) -> None:
        """A group begins; `ending` is that of its `CommandLine`."""
        self._write(f"+{group} {json.dumps(list(ending))}\n")

    def forget(self, group: int) -> None:
        """A group is over."""
        self._write(f"-{group}\n")

    def close(self) -> None:
        """End the guard, which ends what is left."""
        with self._lock, contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.write(line)


class Command:
    """A running command; its output, that of all it starts included, goes to a file.

    Args:
        line: the command line.
        folder: where it runs.
        output: the file.
        guard: ends it should this process die.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, line: CommandLine, *, folder: Path, output: Path, guard: Guard) -> None:
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                list(line.arguments),
                cwd=folder,
                env=dict(line.env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the driver's to handle
            )
        self._line = line
        self._guard = guard
        self._ended = False
        guard.watch(self._process.pid, line.ending)

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        return self._process.poll()

    def end(self, grace: float) -> None:
        """Ask it to end with SIGTERM, and `grace` seconds later with SIGKILL; return when all of it has."""
        others = self._strays()
        self._send(signal.SIGTERM, others)
        deadline = time.monotonic() + grace
        while self._lives() and time.monotonic() < deadline:
            time.sleep(TICK)
        self.kill(others)

    def kill(self, others: Sequence[psutil.Process] = ()) -> None:
        """End what is left of it at once."""
        if self._ended:
            return
        others = [*others, *self._strays()]
        self._send(signal.SIGKILL, others)
        self._process.wait()
        self._end_elsewhere()
        self._ended = True
        self._guard.forget(self._process.pid)

    def _end_elsewhere(self) -> None:
        """End what signals do not reach; after the processes, which might begin it anew."""
        if not self._line.ending:
            return
        try:
            subprocess.run(
                list(self._line.ending),
                env=dict(self._line.env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=guard.ENDING,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or error
            logger.warning("%s failed: %.300s", " ".join(self._line.ending), " ".join(str(told).split()))

    def _lives(self) -> bool:
        self._process.poll()
        if self._process.returncode is None:
            return True
        # where nobody reaps orphans, as in many containers, they stay in their group as zombies
        return any(
            process.info["status"] != psutil.STATUS_ZOMBIE
            for process in psutil.process_iter(["status"])
            if _group(process.pid) == self._process.pid
        )

    def _strays(self) -> list[psutil.Process]:
        """Return the descendants that have left the group for one of their own."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self._process.pid).children(recursive=True)
            return [each for each in found if _group(each.pid) != self._process.pid]
        return []

    def _send(self, number: signal.Signals, others: Sequence[psutil.Process]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        for each in others:
            with contextlib.suppress(psutil.Error):
                each.send_signal(number)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
