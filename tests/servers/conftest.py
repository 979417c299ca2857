"""Real servers for tests, each started once a session: PostgreSQL, an S3 server, `mlflow server`."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from processes import answers, clean_environment, free_port, running
from stores import DATABASE_PASSWORD, S3, Postgres, StartServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster that asks for a password, in a folder of its own."""
    binaries = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0])
    )
    if not binaries and (found := shutil.which("initdb")):
        binaries = [Path(found)]
    if not binaries:
        pytest.skip("PostgreSQL is not installed: no initdb (Debian: apt-get install postgresql)")
    initdb = binaries[-1]
    as_owner: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL cannot run as root, and there is no user postgres")
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
            *("-h", "127.0.0.1", "-p", str(port), "-c", "fsync=off"),
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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server."""
    port = free_port()
    server = S3(f"http://127.0.0.1:{port}")
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with running(
        command, ready=lambda: answers(f"{server.endpoint}/moto-api/"), log=log, env=clean_environment()
    ):
        yield server


@pytest.fixture(scope="session")
def start_mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Call it with the backend store's URI, the server's environment and further flags; it returns the
    server's URI.
    """
    with contextlib.ExitStack() as servers:

        def start(backend: str, env: dict[str, str], *flags: str) -> str:
            folder, port = tmp_path_factory.mktemp("mlflow-server"), free_port()
            uri = f"http://127.0.0.1:{port}"
            command = [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", *flags),
            ]
            environment = clean_environment(
                MLFLOW_BACKEND_STORE_URI=backend, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **env
            )
            servers.enter_context(
                running(
                    command,
                    ready=lambda: answers(f"{uri}/health"),
                    log=folder / "server.log",
                    env=environment,
                    cwd=folder,
                )
            )
            return uri

        yield start
