"""Real servers for tests, each started once a session: an S3 server, `mlflow server`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import answers, clean_environment, free_port, running
from server_processes import NotInstalledError, mlflow_server
from stores import S3, StartServer
from swift import Swift, swift_s3


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
            folder = tmp_path_factory.mktemp("mlflow-server")
            return servers.enter_context(mlflow_server(backend, env, folder, "--workers", "1", *flags))

        yield start


@pytest.fixture
def swift(tmp_path: Path) -> Iterator[Swift]:
    """A durable S3 server of the test's own."""
    folder = tmp_path / "swift"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(swift_s3(folder))
        except NotInstalledError as missing:
            pytest.skip(str(missing))
        yield server
