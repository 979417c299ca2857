"""An S3 client that reads the settings that MLflow's own reads."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from mlflow.environment_variables import (
    MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE,
    MLFLOW_S3_ENDPOINT_URL,
    MLFLOW_S3_EXPECTED_BUCKET_OWNER,
    MLFLOW_S3_IGNORE_TLS,
)

TIMEOUT = 5.0  # seconds to open a connection, and to wait for an answer
TRIES = 2


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return bucket and key of an ``s3://`` URI.

    >>> bucket_and_key("s3://bucket/a/b")
    ('bucket', 'a/b')
    """
    parts = urlsplit(uri)
    return parts.netloc, parts.path.strip("/")


def bucket_owner() -> dict[str, str]:
    """Return the argument of requests that names the owner whom MLflow is told to expect."""
    owner = MLFLOW_S3_EXPECTED_BUCKET_OWNER.get()
    return {"ExpectedBucketOwner": owner} if owner else {}


def impatient_client() -> Any:
    """Return a boto3 client that gives up within seconds; MLflow's own would take minutes. Close it."""
    import boto3  # takes a while, and is needed for this kind of store only
    from botocore import UNSIGNED
    from botocore.config import Config

    signature = os.environ.get("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "s3v4")
    config = Config(
        signature_version=UNSIGNED if signature.lower() == "unsigned" else signature,
        s3={"addressing_style": MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE.get()},
        connect_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
        retries={"total_max_attempts": TRIES},
    )
    return boto3.client(
        "s3",
        endpoint_url=MLFLOW_S3_ENDPOINT_URL.get(),
        verify=False if MLFLOW_S3_IGNORE_TLS.get() else None,
        config=config,
    )
