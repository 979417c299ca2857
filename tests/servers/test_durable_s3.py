"""Checkpoints in an S3 server that is killed: what was told to be stored is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client
from swift import Swift

from mlflow_hpo.errors import StoreAwayError
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints

pytestmark = pytest.mark.servers


def test_checkpoints_outlive_the_server(
    swift: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**swift.s3.env, "AWS_MAX_ATTEMPTS": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps the keys of an earlier test
    _cached_get_s3_client.cache_clear()
    bucket = swift.s3.create_bucket()
    store = ArtifactCheckpoints(f"s3://{bucket}/1/run/artifacts", "sqlite://")
    contents = {1: b"small", 2: b"large" * (4 << 20)}  # the latter, of 20 MB, in parts
    for epoch, content in contents.items():
        (tmp_path / "state").write_bytes(content)
        store.upload(epoch, tmp_path / "state")
    swift.kill()
    with pytest.raises(StoreAwayError, match="cannot list the checkpoints"):
        store.names()
    swift.start()
    found = store.names()
    assert [epoch for epoch, _ in found] == [2, 1]
    for epoch, name in found:
        assert store.download(name, tmp_path / "back").read_bytes() == contents[epoch]
    multipart = swift.s3.client.list_multipart_uploads(Bucket=bucket)
    assert "Uploads" not in multipart
