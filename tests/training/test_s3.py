from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.training.data import load


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="in/table.csv", Body=b"a,y\n" + b"1,0\n2,1\n" * 10)
    archive = io.BytesIO()
    np.savez(archive, X=np.random.default_rng(0).normal(size=(20, 8, 8)), y=np.arange(20) % 2)
    client.put_object(Bucket="data", Key="images.npz", Body=archive.getvalue())
    client.close()


def refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load(url, "y")
    assert caught.value.field == "data"
    assert "\n" not in str(caught.value)
    assert "testing" not in str(caught.value)


def test_tables_and_images_come_from_s3() -> None:
    assert load("s3://data/in/table.csv", "y").rows == 20
    assert load("s3://data/images.npz").form == "image"


def test_what_is_not_there() -> None:
    refused("s3://nowhere/in/table.csv", "s3://nowhere/in/table.csv: there is no bucket 'nowhere'")
    refused("s3://data/in/none.csv", "there is no such object in the bucket")
    refused("s3://data", "got 's3://data'")
    refused("s3://d/x.csv", r"s3://d/x\.csv: ")


def test_a_store_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    refused("s3://data/in/table.csv", f"cannot reach http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "nonsense")
    refused("s3://data/in/table.csv", "Invalid endpoint: nonsense")


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    empty = str(tmp_path_factory.mktemp("home") / "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", empty)
    monkeypatch.setenv("AWS_CONFIG_FILE", empty)
    refused("s3://data/in/table.csv", "no AWS credentials")


def test_access_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

    def deny(*args: object) -> None:
        answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise ClientError(answer, "GetObject")

    monkeypatch.setattr(BaseClient, "_make_api_call", deny)
    refused("s3://data/in/table.csv", r"access denied \(AccessDenied\); check the AWS credentials")
