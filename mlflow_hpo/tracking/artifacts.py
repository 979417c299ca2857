"""The artifact store before the first trial: does it answer, and may we write to it?"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import socket
import tempfile
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.environment_variables import MLFLOW_S3_UPLOAD_EXTRA_ARGS
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from mlflow_hpo.errors import StudyError
from mlflow_hpo.patience import impatient
from mlflow_hpo.tracking.connect import ask, public_uri, reach
from mlflow_hpo.tracking.s3 import bucket_and_key, bucket_owner, impatient_client

BODY = b"written and removed by mlflow-hpo, to see that it can be\n"

# what S3 says of credentials that are there but not right
REFUSED = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "AuthFailure",
        "401",
    }
)
ELSEWHERE = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
)


def reach_artifacts(uri: str) -> None:
    """Check that the artifact store of `uri` answers at all; whether it can be written, a write tells.

    boto3 alone would wait minutes for an S3 server that does not answer.

    Raises:
        StudyError: it is unreachable.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3":
        return
    _reach_endpoint()
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    problem = f"artifact store: cannot reach {public_uri(uri)}"
    try:
        with contextlib.closing(impatient_client()) as client:
            client.head_bucket(Bucket=parts.netloc)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500:
            raise StudyError(f"{problem}: {error}") from None
        # who may write need not be allowed to look
    except HTTPClientError as error:
        raise StudyError(f"{problem}: {error}") from None
    except BotoCoreError:  # settings that MLflow may read in another way
        return


def check_shared(uri: str) -> None:
    """Check on another machine than the driver's that the folder of the parent run's artifacts is there, too.

    Args:
        uri: root of those artifacts, of which the driver has written some; not all are folders.

    Raises:
        StudyError: it is a folder that this machine does not have.
    """
    if is_local_uri(uri) and not Path(local_file_uri_to_path(uri)).is_dir():
        raise StudyError(
            f"artifact store: {uri} is no folder on {socket.gethostname()}, where trials run: it must be on "
            "a file system that all machines share, in an object store, or served by the tracking server"
        )


def check_writable(uri: str, tracking_uri: str) -> None:
    """Write a tiny artifact below `uri` and remove it, within seconds; that it stays is fine.

    Args:
        uri: root of the parent run's artifacts.
        tracking_uri: the tracking server, which serves ``mlflow-artifacts:`` URIs.

    Raises:
        StudyError: the bucket, the credentials or the permission to write is missing, or the store is away;
            it says which, and what to set.
    """
    name = f"write-check-{uuid.uuid4().hex}"
    if uri.startswith("s3://"):
        _check_bucket(uri, name)
        return
    with impatient(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(BODY)
        problem = f"artifact store: cannot write to {public_uri(uri)}"
        repository = ask(problem, get_artifact_repository, uri, tracking_uri=tracking_uri)
        ask(problem, repository.log_artifact, str(file))
        with contextlib.suppress(Exception):  # whoever may write need not be allowed to remove
            repository.delete_artifacts(name)


def _check_bucket(uri: str, name: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from botocore.exceptions import ConnectionError as BotoConnectionError

    _reach_endpoint()
    shown = public_uri(uri)
    bucket, root = bucket_and_key(uri)
    key = posixpath.join(root, name)
    extra = _extra_arguments()
    try:
        with contextlib.closing(impatient_client()) as client:
            client.put_object(Bucket=bucket, Key=key, Body=BODY, **extra)
            with contextlib.suppress(ClientError):  # whoever may write need not be allowed to remove
                client.delete_object(Bucket=bucket, Key=key, **bucket_owner())
    except ClientError as error:
        raise StudyError(_refusal(error.response, shown, bucket)) from None
    except (HTTPClientError, BotoConnectionError) as error:
        raise StudyError(f"artifact store: cannot reach {shown}: {_line(error)}") from None
    except BotoCoreError as error:
        if "Credential" in type(error).__name__ or "Token" in type(error).__name__:
            raise StudyError(
                f"artifact store: no AWS credentials for {shown} ({type(error).__name__}): set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role gives them"
            ) from None
        if type(error).__name__ == "ParamValidationError":  # its message quotes the values
            raise StudyError(
                f"artifact store: cannot write to {shown}: boto3 does not take the arguments; check "
                f"MLFLOW_S3_UPLOAD_EXTRA_ARGS ({', '.join(sorted(extra))})"
            ) from None
        raise StudyError(f"artifact store: cannot use {shown}: {_line(error)}") from None
    except ValueError as error:  # an endpoint that is no URL
        raise StudyError(f"artifact store: cannot use {shown}: {_line(error)}") from None


def _refusal(response: object, shown: str, bucket: str) -> str:
    """Return what an answer of S3 means and what to do about it; its own words may quote the request."""
    answer = response if isinstance(response, dict) else {}
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    told = code or f"HTTP {status}"
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    where = f" at {public_uri(endpoint)}" if endpoint else ""
    if code in ("NoSuchBucket", "404"):
        return (
            f"artifact store: cannot write to {shown}: there is no bucket {bucket!r}{where}; create it, or "
            "give the experiment another artifact location"
            + ("" if endpoint else " (an S3 server of your own is named by MLFLOW_S3_ENDPOINT_URL)")
        )
    if code in REFUSED:
        return (
            f"artifact store: cannot write to {shown}: the AWS credentials are refused ({told}); check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"
        )
    if code in ELSEWHERE:
        return (
            f"artifact store: cannot write to {shown}: the bucket is in another region ({told}); set "
            "AWS_DEFAULT_REGION"
        )
    if status >= 500 or status == 429:
        return f"artifact store: cannot reach {shown}{where}: it answers {status} ({told})"
    if status == 403:
        return (
            f"artifact store: no permission to write to {shown} ({told}); the credentials need s3:PutObject, "
            "s3:GetObject, s3:DeleteObject and s3:ListBucket there, and MLFLOW_S3_UPLOAD_EXTRA_ARGS whatever "
            "encryption the bucket asks for"
        )
    return (
        f"artifact store: cannot write to {shown}: S3 answers {status} ({told}); check the bucket and "
        "MLFLOW_S3_UPLOAD_EXTRA_ARGS"
    )


def _extra_arguments() -> dict[str, object]:
    """Return the arguments that MLflow adds to each upload."""
    text = MLFLOW_S3_UPLOAD_EXTRA_ARGS.get()
    try:
        extra = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise StudyError(f"MLFLOW_S3_UPLOAD_EXTRA_ARGS: is not JSON: {error}") from None
    if not isinstance(extra, dict):
        raise StudyError("MLFLOW_S3_UPLOAD_EXTRA_ARGS: must be a JSON mapping of boto3's upload arguments")
    from boto3.s3.transfer import S3Transfer

    unknown = sorted(extra.keys() - set(S3Transfer.ALLOWED_UPLOAD_ARGS))
    if unknown:
        raise StudyError(
            f"MLFLOW_S3_UPLOAD_EXTRA_ARGS: {', '.join(unknown)} is not among boto3's upload arguments "
            "(such as ServerSideEncryption, SSEKMSKeyId, StorageClass, ACL)"
        )
    return {**bucket_owner(), **extra}


def _reach_endpoint() -> None:
    if endpoint := os.environ.get("MLFLOW_S3_ENDPOINT_URL"):
        reach("MLFLOW_S3_ENDPOINT_URL", endpoint)


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.300}"
