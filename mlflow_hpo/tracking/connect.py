"""Reaching the tracking and artifact stores: quick, and with errors of one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import HpoError, StudyError

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to open a connection
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLflow's own settings name.

    MLflow alone would retry an unreachable server for minutes; a plain connection tells within seconds.

    Raises:
        StudyError: the store is unreachable.
    """
    # the 'View run' line costs a request a run, and both would litter the live view
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = mlflow.get_tracking_uri()
    parts = urlsplit(uri)
    port = PORTS.get(parts.scheme.split("+")[0])
    if parts.hostname and port:
        try:
            socket.create_connection((parts.hostname, parts.port or port), TIMEOUT).close()
        except OSError as error:
            raise StudyError(
                f"MLFLOW_TRACKING_URI: cannot reach {public_uri(uri)}: {error.strerror or error}"
            ) from None
    client = MlflowClient()
    ask(f"MLFLOW_TRACKING_URI: cannot use {public_uri(uri)}", client.search_experiments, max_results=1)
    return client


def ask(problem: str, function: Callable[..., T], /, *args: object, **kwargs: object) -> T:
    """Call a store and turn whatever it raises into a StudyError of one line that begins with `problem`."""
    try:
        return function(*args, **kwargs)
    except HpoError:
        raise
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise StudyError(f"{problem}: {line:.400}") from error


def public_uri(uri: str) -> str:
    """Return `uri` without user name and password.

    >>> public_uri("postgresql://me:secret@db.example/mlflow")
    'postgresql://db.example/mlflow'
    >>> public_uri("sqlite:///mlflow.db")
    'sqlite:///mlflow.db'
    """
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]).geturl()
