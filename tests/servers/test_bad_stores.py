"""Stores that cannot be used: one line says so, within seconds, and nothing is launched."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from http_servers import QuietHandler, serving
from processes import clean_environment, free_port, run_cli
from stores import S3, SECRETS, Postgres, StartServer

pytestmark = pytest.mark.servers

PATIENCE = 30.0  # seconds that a user is made to wait on two busy cores; about 5 are Python's imports


@dataclass(frozen=True)
class BadStore:
    """A store that cannot be used."""

    env: dict[str, str]
    names: str  # what the message must name
    flags: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=SECRETS)


@contextlib.contextmanager
def http_server(status: int | None) -> Iterator[str]:
    """Serve `status` to every request, or never answer at all; yields the address."""

    class Handler(QuietHandler):
        def handle_one_request(self) -> None:
            if status is None:
                over.wait()
                self.close_connection = True
                return
            super().handle_one_request()

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status or 0)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    over = threading.Event()
    with serving(Handler) as address:
        try:
            yield address
        finally:
            over.set()


@pytest.fixture(scope="session")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A SQLite store with an experiment for each artifact root that cannot be written."""
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "file").touch()
    roots = {"missing-bucket": "s3://no-such-bucket/mlflow", "not-a-folder": f"{folder}/file/artifacts"}
    code = (
        "import json, sys, mlflow\n"
        "for name, root in json.loads(sys.argv[1]).items(): mlflow.create_experiment(name, root)"
    )
    env = clean_environment(MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db")
    subprocess.run([sys.executable, "-c", code, json.dumps(roots)], env=env, check=True, timeout=120)
    return env


def launch(store: BadStore, folder: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    begin = time.monotonic()
    done = run_cli("run", "--trials", "2", "--max-epochs", "1", *store.flags, env=store.env, cwd=folder)
    return done, time.monotonic() - begin


def test_unreachable_tracking_server(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    check(BadStore(clean_environment(MLFLOW_TRACKING_URI=uri), uri), tmp_path)


@pytest.mark.parametrize("status", [403, pytest.param(503, marks=pytest.mark.full_size), None])
def test_address_that_is_no_tracking_server(tmp_path: Path, status: int | None) -> None:
    with http_server(status) as uri:
        check(BadStore(clean_environment(MLFLOW_TRACKING_URI=uri), uri), tmp_path)


def test_unreachable_postgres(tmp_path: Path) -> None:
    server = Postgres(free_port())
    env = clean_environment(MLFLOW_TRACKING_URI=server.uri("mlflow"))
    check(BadStore(env, f"127.0.0.1:{server.port}"), tmp_path)


def test_wrong_database_password(tmp_path: Path, postgres: Postgres) -> None:
    env = clean_environment(MLFLOW_TRACKING_URI=postgres.uri("postgres", password="wrong-9c41aa"))
    check(BadStore(env, "password authentication failed", secrets=("wrong-9c41aa",)), tmp_path)


def test_sqlite_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    uri = f"sqlite:///{tmp_path}/file/mlflow.db"
    check(BadStore(clean_environment(MLFLOW_TRACKING_URI=uri), uri), tmp_path)


def test_missing_bucket(tmp_path: Path, s3: S3, experiments: dict[str, str]) -> None:
    store = BadStore({**experiments, **s3.env}, "s3://no-such-bucket", ("--experiment", "missing-bucket"))
    check(store, tmp_path)


@pytest.mark.parametrize("status", [403, pytest.param(None, marks=pytest.mark.full_size)])
def test_s3_endpoint_that_refuses(
    tmp_path: Path, s3: S3, experiments: dict[str, str], status: int | None
) -> None:
    with http_server(status) as endpoint:
        env = {**experiments, **s3.env, "MLFLOW_S3_ENDPOINT_URL": endpoint}
        check(BadStore(env, "s3://no-such-bucket", ("--experiment", "missing-bucket")), tmp_path)


def test_unreachable_s3_endpoint(tmp_path: Path, s3: S3, experiments: dict[str, str]) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    env = {**experiments, **s3.env, "MLFLOW_S3_ENDPOINT_URL": endpoint}
    check(BadStore(env, endpoint, ("--experiment", "missing-bucket")), tmp_path)


def test_artifact_root_that_cannot_be_written(tmp_path: Path, experiments: dict[str, str]) -> None:
    check(BadStore(experiments, "file/artifacts", ("--experiment", "not-a-folder")), tmp_path)


def test_missing_bucket_behind_the_tracking_server(
    tmp_path: Path, s3: S3, start_mlflow_server: StartServer
) -> None:
    flags = ("--serve-artifacts", "--artifacts-destination", "s3://no-such-bucket/mlflow")
    uri = start_mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", s3.env, *flags)
    check(BadStore(clean_environment(MLFLOW_TRACKING_URI=uri), "mlflow-artifacts:/"), tmp_path)


def check(store: BadStore, folder: Path) -> None:
    """Run a study on the store and look at what the user gets to see."""
    done, seconds = launch(store, folder)
    print(f"{seconds:.1f} s: {done.stderr}")
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == "", "a study was started"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert store.names in line
    assert "Traceback" not in line
    assert not any(secret in line for secret in store.secrets)
    assert seconds < PATIENCE
