"""Servers that tests kill and start again on the same port."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from processes import START_TIMEOUT, answers, free_port, wait_for
from server_processes import mlflow_command


class Restartable:
    """A server process in a group of its own.

    Args:
        command: what to run.
        ready: whether it serves.
        folder: its working directory, where its log goes, too.
        env: its environment.
    """

    def __init__(
        self, command: Sequence[str], ready: Callable[[], bool], folder: Path, env: Mapping[str, str]
    ) -> None:
        self._command = command
        self._ready = ready
        self._folder = folder
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._ready, START_TIMEOUT, f"starting {self._command[0]}")

    def kill(self) -> None:
        """SIGKILL to the server and all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def mlflow_server(
    backend: str, env: Mapping[str, str], folder: Path, workers: int
) -> tuple[Restartable, str]:
    """Return an `mlflow server` that is not started yet, and its URI."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command, environment = mlflow_command(backend, env, port, "--workers", str(workers))
    return Restartable(command, lambda: answers(f"{uri}/health"), folder, environment), uri
