"""Which errors of stores pass by themselves."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import requests
from mlflow.exceptions import MlflowException

from mlflow_hpo.errors import HpoError, StoreAwayError, StudyError
from mlflow_hpo.tracking.connect import without_passwords

STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# codes of S3 that come with a status of 400, or with none
CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestTimeTooSkewed"})
FINAL_ERRNO = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR})


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Raise what passes by itself as a StoreAwayError, and all else that a store says as a StudyError.

    Both are of one line. A FileNotFoundError is raised as it is.

    Args:
        what: what was tried, such as "cannot store the checkpoint of epoch 9".
    """
    try:
        yield
    except (HpoError, FileNotFoundError):
        raise
    except Exception as error:
        telling, later = _judged(error)
        line = without_passwords(" ".join(str(telling).split())) or type(telling).__name__
        raise (StoreAwayError if later else StudyError)(f"{what}: {line:.300}") from error


def _judged(error: BaseException) -> tuple[BaseException, bool]:
    """Return the error that tells what happened, among those that `error` was raised from, and whether it
    passes by itself.
    """
    seen: BaseException | None = error
    while seen is not None:
        if (verdict := _verdict(seen)) is not None:
            return seen, verdict
        seen = seen.__cause__ or seen.__context__
    return error, False


def _verdict(error: BaseException) -> bool | None:
    """Whether `error` passes by itself; None if it does not tell."""
    from botocore.exceptions import (  # takes a while, and is needed only when something failed
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        HTTPClientError,
        MetadataRetrievalError,
    )
    from botocore.exceptions import ConnectionError as BotoConnectionError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status in STATUSES or error.response.get("Error", {}).get("Code") in CODES
    if isinstance(
        error, HTTPClientError | BotoConnectionError | CredentialRetrievalError | MetadataRetrievalError
    ):
        return True
    if isinstance(error, BotoCoreError):
        return False
    if isinstance(error, requests.RequestException):
        if error.response is not None:
            return error.response.status_code in STATUSES
        return isinstance(
            error,
            requests.ConnectionError
            | requests.Timeout
            | requests.exceptions.ChunkedEncodingError
            | requests.exceptions.RetryError,
        )
    if isinstance(error, MlflowException):
        # MLflow's own wrapper of what it met has no status of its own: its cause says more
        inner = error.__cause__ or error.__context__
        if inner is not None and (verdict := _verdict(inner)) is not None:
            return verdict
        return error.get_http_status_code() in STATUSES
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in FINAL_ERRNO
    return None
