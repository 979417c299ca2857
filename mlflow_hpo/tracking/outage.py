"""What an error of the tracking store means, and how long to wait before the next try."""

from __future__ import annotations

import random

from mlflow.exceptions import MlflowException

FINAL_ERRORS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED"}
)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
PASSING = (408, 409, 429, 499)  # HTTP statuses that say nothing against the request itself
_CONNECTION = ("OperationalError", "InterfaceError", "InternalError", "TimeoutError")  # of SQLAlchemy


def is_final(error: BaseException) -> bool:
    """Whether the store will refuse the same request again, however often it is made."""
    return isinstance(error, MlflowException) and error.error_code in FINAL_ERRORS


def is_outage(error: BaseException) -> bool:
    """Whether the store is away, or unable for the moment, and may take the same request later.

    Neither this nor `is_final` holds for errors that may pass or not, such as a login that is refused.
    """
    if isinstance(error, MlflowException):
        # a database that lost its connection may be told as a bad request
        if type(error.__cause__).__name__ in _CONNECTION:
            return True
        status: int = error.get_http_status_code()
        return status >= 500 or status in PASSING
    return isinstance(error, OSError) or type(error).__name__ in _CONNECTION


def pause(failures: int) -> float:
    """Return how many seconds to wait after so many failures in a row: exponential, with full jitter.

    Many drivers that lost the same server so do not all come back at once.
    """
    return max(0.05, random.uniform(0.0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 10))))  # noqa: S311
