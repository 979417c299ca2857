"""The doctor finds what is wrong with S3 and PostgreSQL, and names the cure."""

from __future__ import annotations

import json
from typing import Any

import boto3
import mlflow
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from processes import free_port
from stores import S3, SECRETS, Postgres, StartServer

from mlflow_hpo.cli import main

pytestmark = pytest.mark.servers


def doctor() -> list[dict[str, str]]:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    told: dict[str, Any] = json.loads(result.stdout)
    assert told["healthy"] == (result.exit_code == 0)
    assert not any(secret in result.output for secret in SECRETS)
    return [found for found in told["findings"] if found["level"] != "OK"]


@pytest.fixture
def bucket(store: MlflowClient, s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bucket that the experiment's artifacts go to."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    name = s3.create_bucket()
    store.create_experiment("test", artifact_location=f"s3://{name}/mlflow")
    return name


def test_bucket_that_can_be_written(bucket: str, s3: S3) -> None:
    assert doctor() == []
    assert s3.objects(bucket) == {}


def test_missing_bucket(bucket: str, s3: S3) -> None:
    s3.client.delete_bucket(Bucket=bucket)
    [found] = doctor()
    assert (found["level"], found["subject"]) == ("FAULT", "artifact store")
    assert f"there is no bucket {bucket!r}" in found["text"]
    assert found["cure"] == "create it, or give the experiment another artifact location"


def test_missing_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # remembers credentials
    [found] = doctor()
    assert "no AWS credentials" in found["text"]
    assert found["cure"].startswith("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_unreachable_endpoint(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    [found] = doctor()
    assert "MLFLOW_S3_ENDPOINT_URL: cannot reach" in found["text"]
    assert found["cure"].startswith("start the S3 server, or set MLFLOW_S3_ENDPOINT_URL")


def test_refused_database_login(store: MlflowClient, postgres: Postgres) -> None:
    mlflow.set_tracking_uri(postgres.uri("postgres", password="wrong-9c41aa"))
    [found] = doctor()
    assert (found["level"], found["subject"]) == ("FAULT", "tracking store")
    assert "password authentication failed" in found["text"]
    assert found["cure"] == "correct user name and password in MLFLOW_TRACKING_URI"
    assert "wrong-9c41aa" not in json.dumps(found)


def test_missing_database(store: MlflowClient, postgres: Postgres) -> None:
    mlflow.set_tracking_uri(postgres.uri("nowhere"))
    [found] = doctor()
    assert found["cure"] == "create that database, or correct MLFLOW_TRACKING_URI"


def test_empty_database_is_fine_and_stays_empty(store: MlflowClient, postgres: Postgres) -> None:
    import psycopg

    uri = postgres.create_database()
    mlflow.set_tracking_uri(uri)
    assert doctor() == []
    with psycopg.connect(uri) as connection:
        tables = connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == []


def test_missing_bucket_behind_the_tracking_server(
    tmp_path: Any, store: MlflowClient, s3: S3, start_mlflow_server: StartServer
) -> None:
    flags = ("--serve-artifacts", "--artifacts-destination", "s3://no-such-bucket/mlflow")
    mlflow.set_tracking_uri(start_mlflow_server(store.tracking_uri, s3.env, *flags))
    [found] = doctor()
    assert (found["level"], found["subject"]) == ("FAULT", "artifact store")
    assert found["cure"].startswith("the server writes these: look into its log")
