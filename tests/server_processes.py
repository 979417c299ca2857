"""PostgreSQL and `mlflow server`, as tests and benchmarks start them."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from processes import answers, clean_environment, free_port, running
from stores import DATABASE_PASSWORD, Postgres


class NotInstalledError(Exception):
    """A server cannot be started on this machine; the message says what is missing."""


@contextlib.contextmanager
def postgres_cluster(*settings: str) -> Iterator[Postgres]:
    """Run a PostgreSQL cluster that asks for a password, in a folder of its own.

    Args:
        settings: of the server, such as ``fsync=off``.

    Raises:
        NotInstalledError: it is not installed, or there is no user that it may run as.
    """
    binaries = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0])
    )
    if not binaries and (found := shutil.which("initdb")):
        binaries = [Path(found)]
    if not binaries:
        raise NotInstalledError("PostgreSQL is not installed: no initdb (Debian: apt-get install postgresql)")
    initdb = binaries[-1]
    as_owner: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            raise NotInstalledError("PostgreSQL cannot run as root, and there is no user postgres") from None
        as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="mlflow-hpo-postgres-"))
    if as_owner:
        os.chown(folder, as_owner["user"], as_owner["group"])
    port, data, password = free_port(), folder / "data", folder / "password"
    server = Postgres(port)

    def ready() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(server.uri("postgres"), connect_timeout=2).close()
            return True
        return False

    try:
        password.write_text(DATABASE_PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            [
                *(str(initdb), "-D", str(data), "-U", "mlflow", "--no-sync"),
                *("-A", "scram-sha-256", "--pwfile", str(password)),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            env=clean_environment(),
            **as_owner,
        )
        command = [
            *(str(initdb.with_name("postgres")), "-D", str(data), "-k", str(folder)),
            *("-h", "127.0.0.1", "-p", str(port)),
            *(word for setting in settings for word in ("-c", setting)),
        ]
        with running(
            command,
            ready=ready,
            log=folder / "server.log",
            env=clean_environment(),
            stop=signal.SIGINT,  # ends the connections that are left, too
            cwd=folder,
            **as_owner,
        ):
            yield server
    finally:
        shutil.rmtree(folder)


def mlflow_command(
    backend: str, env: Mapping[str, str], port: int, *flags: str
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of `mlflow server` on a backend store, and its environment.

    Args:
        backend: the store's URI.
        env: what it has in its environment besides.
        port: of loopback.
        flags: further ones.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *flags]
    environment = clean_environment(
        MLFLOW_BACKEND_STORE_URI=backend, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **env
    )
    return command, environment


@contextlib.contextmanager
def mlflow_server(backend: str, env: Mapping[str, str], folder: Path, *flags: str) -> Iterator[str]:
    """Run `mlflow server` on a backend store, its log in a folder; yield its URI.

    Args:
        backend: the store's URI.
        env: what it has in its environment besides.
        folder: an empty one that it works in.
        flags: further ones of its command line.
    """
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command, environment = mlflow_command(backend, env, port, *flags)
    with running(
        command,
        ready=lambda: answers(f"{uri}/health"),
        log=folder / "server.log",
        env=environment,
        cwd=folder,
    ):
        yield uri
