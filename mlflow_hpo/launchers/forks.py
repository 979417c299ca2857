"""Forks: worker processes that start at once, as they are forked from one that has imported everything.

This process has a fork server, started with its first worker; later studies of it use the same one, unless
their workers have other variables that count when libraries are loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from mlflow_hpo.launchers.fork_server import Request
from mlflow_hpo.launchers.processes import import_path, own_python

# begin the names of variables that count when a program or a library is loaded, and not later
LOADED = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMEXPR_",
    "LD_",
    "MALLOC_",
    "PYTHON",
    "TORCH",
    "PYTORCH_",
)
SERVERS = 3  # at most, for different variables
LAST_WORDS = 5.0  # seconds that the server gets to end


class Forked:
    """A worker process; has of `subprocess.Popen` what a pool of workers needs. Used by one thread at a time.

    Args:
        server: that forks it.
        told: where the server tells of it.
    """

    def __init__(self, server: subprocess.Popen[bytes], told: socket.socket) -> None:
        self._server = server
        self._told: socket.socket | None = told
        self._heard = b""
        self.returncode: int | None = None

    @property
    def pid(self) -> int | None:
        """Its id, once it is there, which this waits for; None if it never was."""
        while b"\n" not in self._heard and self._listen(None):
            pass
        first, newline, _ = self._heard.partition(b"\n")
        return int(first) if newline else None

    def poll(self) -> int | None:
        """Return its exit code, minus the signal that ended it; None while it runs."""
        while self._listen(0.0):
            pass
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            if not self._listen(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self.returncode

    def kill(self) -> None:
        """Send it SIGKILL, if it still runs."""
        if self.poll() is None and (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_group(self) -> None:
        """Send SIGKILL to it and to all that it started; what it started may be left when it has ended."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _listen(self, timeout: float | None) -> bool:
        """Hear what the server tells; return False if it is nothing for so many seconds, or ever again."""
        if self._told is None:
            return False
        self._told.settimeout(timeout)
        try:
            news = self._told.recv(64)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:  # the server died
            news = b""
        self._heard += news
        if not news:
            self._told.close()
            self._told = None
            said = self._heard.split()
            self.returncode = int(said[1]) if len(said) == 2 else self._code_without_server()
        return True

    def _code_without_server(self) -> int:
        """Return the exit code of a process whose server has died: it dies with it."""
        if self.pid is not None:
            return -signal.SIGKILL
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._server.wait(LAST_WORDS) or 1
        return 1


class ForkServer:
    """The other end of `fork_server`.

    Args:
        environment: of the server.
        output: where its last words go.
    """

    def __init__(self, environment: Mapping[str, str], output: IO[bytes]) -> None:
        self.loaded = _loaded(environment)
        self._requests, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                own_python(
                    f"from mlflow_hpo.launchers.fork_server import main; main({theirs.fileno()})",
                    *("-X", "faulthandler"),
                ),
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the driver's to handle
            )

    def fork(self, request: Request, pipe: int, log: int) -> Forked:
        """Have a process forked. One that cannot be has an exit code at once."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(OSError):  # the server is dead
            socket.send_fds(self._requests, [b"+"], [theirs.fileno(), pipe, log])
            ours.sendall(request.to_line())
        return Forked(self.process, ours)

    def close(self) -> None:
        """Let it end, as soon as all has that it forked."""
        self._requests.close()


_lock = threading.Lock()
_servers: list[ForkServer] = []  # those that take requests, the last used one last,
_leaving: list[ForkServer] = []  # and those that end as soon as their workers have


def start_worker(
    program: str, modules: Sequence[str], environment: Mapping[str, str], pipe: int, output: IO[bytes]
) -> Forked:
    """Start a worker, forked from this process's server.

    Args:
        program: the module whose `main` it runs, with the descriptor of its pipe.
        modules: further modules that it needs, to be imported before it is forked.
        environment: of the worker.
        pipe: the descriptor of its pipe.
        output: its log.
    """
    folder = ""
    with contextlib.suppress(FileNotFoundError):  # it has been deleted
        folder = os.getcwd()
    request = Request(program, list(modules), import_path(), folder, dict(environment))
    with _lock:
        return _server(environment, output).fork(request, pipe, output.fileno())


def _server(environment: Mapping[str, str], output: IO[bytes]) -> ForkServer:
    loaded = _loaded(environment)
    dead = [each for each in _servers if each.process.poll() is not None]
    alive = [each for each in _servers if each not in dead]
    fitting = [each for each in alive if each.loaded == loaded]
    server = fitting[0] if fitting else ForkServer(environment, output)
    others = [each for each in alive if each is not server]
    too_many = others[: max(0, len(others) + 1 - SERVERS)]
    for each in [*dead, *too_many]:
        each.close()
    _servers[:] = [*(each for each in others if each not in too_many), server]
    _leaving[:] = [each for each in [*_leaving, *too_many] if each.process.poll() is None]
    return server


def _loaded(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(LOADED)}


@atexit.register
def close_servers() -> None:
    """End the servers of this process; those whose workers still run end after them."""
    for server in _servers:
        server.close()
    _leaving.extend(_servers)
    _servers.clear()
    for server in _leaving:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(LAST_WORDS)
    _leaving[:] = [each for each in _leaving if each.process.poll() is None]


def _forget_servers() -> None:
    """In a process that was forked from this one: they are not its."""
    for server in [*_servers, *_leaving]:
        server.process.returncode = 0  # or its end would be looked for
        server.close()
    _servers.clear()
    _leaving.clear()


os.register_at_fork(after_in_child=_forget_servers)
