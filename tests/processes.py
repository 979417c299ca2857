"""Server processes for tests: started on loopback, waited for, and ended with everything they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

START_TIMEOUT = 120.0  # seconds; the slowest one is `mlflow server` on two busy cores
STOP_TIMEOUT = 10.0
POLL = 0.05


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without what would lead MLflow or boto3 elsewhere."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PG"))
    }
    # one thread each: several processes share the machine's cores
    return {**kept, "OMP_NUM_THREADS": "1", "AWS_EC2_METADATA_DISABLED": "true", **extra}


def wait_for(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Return once `condition` holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took longer than {timeout:g} seconds")
        time.sleep(POLL)


def answers(url: str, certificate: Path | None = None) -> bool:
    """Return whether an HTTP server answers at `url` with success; `certificate` is its own, with https."""
    trusted = None if certificate is None else ssl.create_default_context(cafile=certificate)
    try:
        with urllib.request.urlopen(url, timeout=5, context=trusted) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: Path,
    env: Mapping[str, str],
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own from the moment it is ready; then end the whole group.

    Args:
        command: what to run.
        ready: whether it serves.
        log: where its output goes; shown if it does not start.
        env: its environment.
        stop: the signal that asks it to end.
        options: of `subprocess.Popen`.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        try:
            wait_for(lambda: process.poll() is not None or ready(), START_TIMEOUT, f"starting {command[0]}")
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{log.read_text(errors='replace')}") from None
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended: {process.returncode}\n{log.read_text(errors='replace')}")
        yield process
    finally:
        _end(process, stop)


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    process.send_signal(stop)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not _group_lives(process.pid), STOP_TIMEOUT, f"the end of process group {process.pid}")


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def run_cli(
    *arguments: str, env: Mapping[str, str], cwd: Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `mlflow-hpo` with `arguments` to its end."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("mlflow-hpo")), *arguments],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
