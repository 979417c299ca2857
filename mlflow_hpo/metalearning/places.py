"""Places: the artifact stores that earlier studies wrote to, and which of them are away."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from mlflow_hpo.errors import StudyError
from mlflow_hpo.tracking.artifacts import reach_artifacts
from mlflow_hpo.tracking.connect import public_uri
from mlflow_hpo.tracking.outage import PASSING

_PATIENCE = 3  # times in a row that a place does not answer


class PlaceAwayError(StudyError):
    """A place did not answer before, and was not asked again.

    Args:
        place: its scheme and host or bucket, without user name and password.
    """

    def __init__(self, place: str) -> None:
        super().__init__(f"artifact store: {place} does not answer")
        self.place = place


class Places:
    """Which places answer; for any number of threads.

    What a single study lacks, or keeps to itself, says nothing of others: it is no sign of an outage.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reached: set[str] = set()
        self._failures: Counter[str] = Counter()  # in a row

    def reach(self, location: str) -> None:
        """Look whether the place answers at all, unless it did before.

        Args:
            location: URI of a run's artifacts.

        Raises:
            PlaceAwayError: it did not answer three times in a row.
            StudyError: it does not.
        """
        place = place_of(location)
        with self._lock:
            if self._failures[place] >= _PATIENCE:
                raise PlaceAwayError(place)
            if place in self._reached:
                return
        try:
            reach_artifacts(location)
        except StudyError:
            self._failed(place)
            raise
        with self._lock:
            self._reached.add(place)

    def read(self, location: str) -> None:
        """An artifact was read there."""
        with self._lock:
            del self._failures[place_of(location)]

    def not_read(self, location: str, repository: ArtifactRepository) -> None:
        """An artifact could not be read there: find out whether the place answers.

        Args:
            location: URI of the run's artifacts.
            repository: these artifacts.
        """
        if not _answers(repository):
            self._failed(place_of(location))

    def _failed(self, place: str) -> None:
        with self._lock:
            self._failures[place] += 1


def place_of(location: str) -> str:
    """Return the scheme and the host or bucket of a URI, without user name and password.

    >>> place_of("s3://bucket/7/0123/artifacts"), place_of("/mlruns/7/0123/artifacts")
    ('s3://bucket', '://')
    """
    return "{0.scheme}://{0.netloc}".format(urlsplit(public_uri(location)))


def _answers(repository: ArtifactRepository) -> bool:
    """Return whether a store lists the artifacts of a run, or at least says why it does not."""
    try:
        repository.list_artifacts()
    except Exception as error:  # noqa: BLE001 - whatever client the store has
        return isinstance(error, PermissionError) or _refused(_status(error))
    return True


def _refused(status: int) -> bool:
    """Return whether an HTTP status means: no such thing, or not for us; and not: later."""
    return 400 <= status < 500 and status not in PASSING


def _status(error: BaseException) -> int:
    """Return the HTTP status in an error of whichever client, 0 where there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # boto3
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif isinstance(error, MlflowException):
        found = error.get_http_status_code()
    else:  # requests, Azure, Google
        told = (getattr(each, name, None) for each in (response, error) for name in ("status_code", "code"))
        found = next((status for status in told if isinstance(status, int)), 0)
    return found if isinstance(found, int) else 0
