"""Multipart uploads that a killed process left behind: S3 keeps, and charges for, their parts for ever."""

from __future__ import annotations

import contextlib
import logging
import posixpath
from datetime import UTC, datetime, timedelta

from mlflow_hpo.tracking.s3 import bucket_and_key, bucket_owner, impatient_client

THRESHOLD = 8 << 20  # bytes from which boto3 uploads in parts
AGE = timedelta(days=1)  # an older one is abandoned, whoever began it

logger = logging.getLogger(__name__)


def abort_abandoned(artifact_uri: str, folder: str, *, stored: str, size: int) -> None:
    """Abort what is left of multipart uploads below a run's artifacts, once an object there is stored whole.

    Those of the same object are abandoned, as it is there now, and so are those older than a day. Where that
    is not permitted, or the store is not S3, nothing happens.

    Args:
        artifact_uri: root of the run's artifacts.
        folder: where below the root.
        stored: name of the object that has just been stored in `folder`.
        size: its size in bytes; small ones are not uploaded in parts, so nothing is looked for.
    """
    if not artifact_uri.startswith("s3://") or size < THRESHOLD:
        return
    bucket, root = bucket_and_key(artifact_uri)
    prefix = posixpath.join(root, folder) + "/"
    try:
        with contextlib.closing(impatient_client()) as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=bucket, Prefix=prefix, **bucket_owner()
            )
            before = datetime.now(UTC) - AGE
            for upload in (upload for page in pages for upload in page.get("Uploads", [])):
                if upload["Key"] == prefix + stored or upload["Initiated"] < before:
                    client.abort_multipart_upload(
                        Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"], **bucket_owner()
                    )
    except Exception as error:  # noqa: BLE001 - tidying up must not cost a checkpoint
        logger.debug("cannot look for abandoned uploads in %s: %s", bucket, error)
