"""Checkpoints in S3 and through a tracking server; what is checked of a bucket before the first trial."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from http_servers import QuietHandler, serving
from processes import free_port
from stores import S3, SECRETS, StartServer

from mlflow_hpo.errors import CorruptCheckpointError, StoreAwayError, StudyError
from mlflow_hpo.tracking import multipart
from mlflow_hpo.tracking.artifacts import check_writable
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def environment(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {
        **s3.env,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # no chunked requests: `in_front_of` knows none
    }
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found once
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3: S3) -> str:
    return s3.create_bucket()


@contextlib.contextmanager
def in_front_of(s3: S3, answer: Callable[[int, str], tuple[int, str] | None]) -> Iterator[str]:
    """Serve what `answer` makes of a request's number and method, and pass on all else; yields the address.

    An answer is a status and the code of an S3 error.
    """
    import urllib.error
    import urllib.request

    seen = 0

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            nonlocal seen
            seen += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            refusal = answer(seen, self.command)
            if refusal is not None:
                status, code = refusal
                content = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                headers = {"Content-Type": "application/xml"}
            else:
                passed = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                request = urllib.request.Request(
                    s3.endpoint + self.path, data=body or None, headers=passed, method=self.command
                )
                try:
                    with urllib.request.urlopen(request, timeout=20) as response:
                        status, headers, content = response.status, dict(response.headers), response.read()
                except urllib.error.HTTPError as error:
                    status, headers, content = error.code, dict(error.headers), error.read()
                    error.close()
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in (
                    "content-length",
                    "connection",
                    "transfer-encoding",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

    with serving(Handler) as address:
        yield address


def store_in(bucket: str) -> ArtifactCheckpoints:
    return ArtifactCheckpoints(f"s3://{bucket}/1/run/artifacts", "sqlite://")


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "state"
    path.write_bytes(content)
    return path


# --- checkpoints


def test_fifty_megabytes_go_and_come_in_parts(s3: S3, bucket: str, tmp_path: Path) -> None:
    content = hashlib.sha256(b"seed").digest() * (50 << 15)
    store = store_in(bucket)
    name = store.upload(9, file_of(tmp_path, content))
    head = s3.client.head_object(Bucket=bucket, Key=f"1/run/artifacts/checkpoints/{name}")
    assert head["ETag"].strip('"').endswith("-7"), "it was not uploaded in parts of 8 MiB"
    assert store.download(name, tmp_path / "back").read_bytes() == content


def test_an_unfinished_upload_is_no_checkpoint_and_is_aborted_by_the_next(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * (9 << 20)
    store = store_in(bucket)
    name = f"epoch-0001.{hashlib.sha256(content).hexdigest()}.ckpt"
    folder = "1/run/artifacts/checkpoints/"

    def begin(key: str) -> None:
        begun = s3.client.create_multipart_upload(Bucket=bucket, Key=key)
        s3.client.upload_part(
            Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=content[: 5 << 20]
        )

    def left() -> set[str]:
        found = s3.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return {upload["Key"] for upload in found}

    other, foreign = folder + "epoch-0007.other", "1/other-run/artifacts/checkpoints/x"
    for key in (folder + name, other, foreign):
        begin(key)
    assert store.names() == []
    monkeypatch.setattr(multipart, "AGE", timedelta(days=36_500))  # moto says that all began in 2010
    assert store.upload(1, file_of(tmp_path, content)) == name
    assert left() == {other, foreign}, "another one that is young may be under way"
    monkeypatch.setattr(multipart, "AGE", timedelta(0))
    store.upload(1, file_of(tmp_path, content))
    assert left() == {foreign}, "what is not the trial's is none of ours"


def test_a_torn_object_is_never_taken_for_whole(s3: S3, bucket: str, tmp_path: Path) -> None:
    store = store_in(bucket)
    name = store.upload(1, file_of(tmp_path, b"weights" * 1000))
    s3.client.put_object(Bucket=bucket, Key=f"1/run/artifacts/checkpoints/{name}", Body=b"weights" * 500)
    with pytest.raises(CorruptCheckpointError):
        store.download(name, tmp_path / "back")


def test_no_rights_to_look_for_unfinished_uploads_cost_nothing(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int, method: str) -> tuple[int, str] | None:
        return (403, "AccessDenied") if method == "GET" else None

    monkeypatch.setattr(multipart, "THRESHOLD", 1)
    with in_front_of(s3, answer) as endpoint:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
        store_in(bucket).upload(1, file_of(tmp_path, b"weights"))
    assert len(s3.objects(bucket)) == 1


def test_a_third_of_the_requests_fails(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = ["SlowDown", "InternalError", "ServiceUnavailable"]

    def answer(number: int, _: str) -> tuple[int, str] | None:
        return (503, codes[number % len(codes)]) if number % 3 == 0 else None

    failures = 0
    with in_front_of(s3, answer) as endpoint:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
        store = store_in(bucket)
        for epoch in range(1, 11):
            while True:
                try:
                    store.upload(epoch, file_of(tmp_path, b"%d" % epoch))
                    break
                except StoreAwayError:
                    failures += 1
    assert failures
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", s3.endpoint)
    assert [epoch for epoch, _ in store_in(bucket).names()] == list(range(10, 0, -1))


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket")])
def test_a_refusal_is_final(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    with in_front_of(s3, lambda *_: (status, code)) as endpoint:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
        with pytest.raises(StudyError, match=code) as caught:
            store_in(bucket).upload(1, file_of(tmp_path, b"weights"))
    assert not isinstance(caught.value, StoreAwayError)


def test_an_endpoint_that_is_away(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreAwayError, match="cannot store the checkpoint of epoch 1: Could not connect"):
        store_in(bucket).upload(1, file_of(tmp_path, b"weights"))


def test_extra_arguments_reach_every_upload(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", '{"ServerSideEncryption": "AES256"}')
    check_writable(f"s3://{bucket}/1/run/artifacts", "sqlite://")
    name = store_in(bucket).upload(1, file_of(tmp_path, b"weights"))
    head = s3.client.head_object(Bucket=bucket, Key=f"1/run/artifacts/checkpoints/{name}")
    assert head["ServerSideEncryption"] == "AES256"


def test_checkpoints_through_the_tracking_server(
    s3: S3, bucket: str, tmp_path: Path, start_mlflow_server: StartServer
) -> None:
    flags = ("--serve-artifacts", "--artifacts-destination", f"s3://{bucket}/proxied")
    uri = start_mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", s3.env, *flags)
    check_writable("mlflow-artifacts:/1/run/artifacts", uri)
    assert s3.objects(bucket) == {}
    store = ArtifactCheckpoints("mlflow-artifacts:/1/run/artifacts", uri)
    name = store.upload(3, file_of(tmp_path, b"y" * (9 << 20)))
    assert list(s3.objects(bucket)) == [f"proxied/1/run/artifacts/checkpoints/{name}"]
    assert store.names() == [(3, name)]
    assert store.download(name, tmp_path / "back").stat().st_size == 9 << 20
    store.delete(name)
    assert store.names() == []


# --- before the first trial


def refused(uri: str, *words: str) -> None:
    begin = time.monotonic()
    with pytest.raises(StudyError) as caught:
        check_writable(uri, "sqlite://")
    told = str(caught.value)
    assert time.monotonic() - begin < 15
    assert "\n" not in told
    assert not any(secret in told for secret in SECRETS)
    assert all(word in told for word in words), told


def test_a_bucket_that_can_be_written_is_left_as_it_was(s3: S3, bucket: str) -> None:
    check_writable(f"s3://{bucket}/1/run/artifacts", "sqlite://")
    assert s3.objects(bucket) == {}


def test_who_may_not_delete_may_begin(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(number: int, method: str) -> tuple[int, str] | None:
        return (403, "AccessDenied") if method == "DELETE" else None

    with in_front_of(s3, answer) as endpoint:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
        check_writable(f"s3://{bucket}/1/run/artifacts", "sqlite://")
    assert len(s3.objects(bucket)) == 1


def test_no_such_bucket() -> None:
    refused("s3://no-such-bucket/a", "there is no bucket 'no-such-bucket'", "create it")


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused(f"s3://{bucket}/a", "no AWS credentials", "set AWS_ACCESS_KEY_ID")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "InvalidAccessKeyId", ("the AWS credentials are refused", "AWS_SECRET_ACCESS_KEY")),
        (403, "SignatureDoesNotMatch", ("the AWS credentials are refused", "AWS_SECRET_ACCESS_KEY")),
        (400, "ExpiredToken", ("the AWS credentials are refused", "AWS_SESSION_TOKEN")),
        (403, "AccessDenied", ("no permission to write", "s3:PutObject")),
        (400, "AuthorizationHeaderMalformed", ("another region", "AWS_DEFAULT_REGION")),
        (503, "SlowDown", ("cannot reach", "503")),
    ],
)
def test_what_s3_says(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: tuple[str, ...]
) -> None:
    with in_front_of(s3, lambda *_: (status, code)) as endpoint:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
        refused(f"s3://{bucket}/a", code, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON mapping"),
        ('{"ServerSideEncrypton": "AES256"}', "ServerSideEncrypton is not among boto3's upload arguments"),
    ],
)
def test_extra_arguments_that_are_wrong(
    bucket: str, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setenv("MLFLOW_S3_UPLOAD_EXTRA_ARGS", text)
    refused(f"s3://{bucket}/a", "MLFLOW_S3_UPLOAD_EXTRA_ARGS: ", words)
