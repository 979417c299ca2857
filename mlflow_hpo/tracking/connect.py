"""Reaching the tracking and artifact stores: quick, and with errors of one line."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import HpoError, StudyError
from mlflow_hpo.patience import impatient
from mlflow_hpo.tracking.transport import hasten

if TYPE_CHECKING:
    from mlflow.store.entities import PagedList

T = TypeVar("T")

QUOTING = "write @ : / [ ] in its user name and password as %40 %3A %2F %5B %5D"  # the cure of what is none
TIMEOUT = 5.0  # seconds to open a connection
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# user name and password in the URI of a database; SQLAlchemy lets the latter go on to the first @
_OF_DATABASE = re.compile(r"\b((?:postgresql|mysql|mssql)(?:\+\w+)?://)[^:/@\s]*(?::[^@\s]*)?@")


def connect() -> MlflowClient:
    """Return a client of the tracking store that MLflow's own settings name.

    MLflow alone would try an unusable store again for minutes; this tells within seconds. From then on what
    this process asks of that store is quicker than MLflow makes it: see `transport`.

    Raises:
        StudyError: the store is unreachable.
    """
    # the 'View run' line costs a request a run, and both would litter the live view
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = mlflow.get_tracking_uri()
    if not is_uri(uri):
        raise StudyError(f"MLFLOW_TRACKING_URI: is no URI; {QUOTING}")
    problem = f"MLFLOW_TRACKING_URI: cannot use {public_uri(uri)}"
    reach("MLFLOW_TRACKING_URI", uri)
    hasten(uri)
    with impatient():
        if urlsplit(uri).scheme.split("+")[0] in PORTS.keys() - {"http", "https"}:
            ask(problem, _log_in, uri)
        client = ask(problem, MlflowClient)
        ask(problem, client.search_experiments, max_results=1)
    return client


def is_uri(text: str) -> bool:
    """Return whether a text can be taken apart as a URI.

    >>> is_uri("./runs"), is_uri("postgresql://user:p[ss@host/db")
    (True, False)
    """
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def reach(setting: str, uri: str) -> None:
    """Raise a StudyError that names `setting` if nothing answers at the host and port of `uri`."""
    parts = urlsplit(public_uri(uri))
    usual = PORTS.get(parts.scheme.split("+")[0])
    try:
        port = parts.port or usual
    except ValueError:  # which would quote what may be a part of a password
        raise StudyError(
            f"{setting}: its port is no number (in a password, / and such must be quoted)"
        ) from None
    if parts.hostname and usual:
        try:
            socket.create_connection((parts.hostname, port), TIMEOUT).close()
        except OSError as error:
            raise StudyError(
                f"{setting}: cannot reach {public_uri(uri)}: {error.strerror or error}"
            ) from None


def _log_in(uri: str) -> None:
    """Open one connection to a database: MLflow would try ten times, for 100 seconds."""
    from mlflow.store.db.utils import create_sqlalchemy_engine  # brings SQLAlchemy: not for every store

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def ask(problem: str, function: Callable[..., T], /, *args: object, **kwargs: object) -> T:
    """Call a store and turn whatever it raises into a StudyError of one line that begins with `problem`."""
    try:
        return function(*args, **kwargs)
    except HpoError:
        raise
    except Exception as error:
        line = without_passwords(" ".join(str(error).split())) or type(error).__name__
        raise StudyError(f"{problem}: {line:.400}") from error


def ask_all(
    problem: str, function: Callable[..., PagedList[T]], /, *args: object, **kwargs: object
) -> Iterator[T]:
    """Yield all that a store lists, page after page; what it raises is what `ask` raises."""
    token: str | None = None
    while True:
        page = ask(problem, function, *args, page_token=token, **kwargs)
        yield from page
        token = page.token
        del page  # it may be large
        if not token:
            return


def public_uri(uri: str) -> str:
    """Return `uri` without user name and password.

    >>> public_uri("postgresql://me:secret@db.example/mlflow")
    'postgresql://db.example/mlflow'
    >>> public_uri("postgresql://me:1/2#3?4@db.example/mlflow")  # SQLAlchemy takes what is not quoted, too
    'postgresql://db.example/mlflow'
    >>> public_uri("sqlite:///mlflow.db")
    'sqlite:///mlflow.db'
    """
    uri = _OF_DATABASE.sub(r"\1", uri)
    parts = urlsplit(uri)
    if re.search("pass|secret|token|key", parts.query, re.IGNORECASE):
        uri = uri.partition("?")[0]
    if "@" not in parts.netloc:
        return uri
    return urlsplit(uri)._replace(netloc=parts.netloc.rsplit("@", 1)[1]).geturl()


def store_name(uri: str) -> str:
    """Return what tells the store of `uri` from others, wherever this process was started; no password.

    >>> store_name("sqlite:////data/mlflow.db"), store_name("http://me:secret@mlflow.example/")
    ('sqlite:////data/mlflow.db', 'http://mlflow.example')
    """
    path = uri.removeprefix("sqlite:///")
    if path != uri and not path.startswith((":", "file:")):
        return f"sqlite:///{os.path.realpath(path)}"
    return public_uri(uri).rstrip("/")


def anywhere(uri: str) -> str:
    """Return `uri` as it is understood in any working folder.

    >>> anywhere("sqlite:////data/mlflow.db"), anywhere("http://mlflow.example")
    ('sqlite:////data/mlflow.db', 'http://mlflow.example')
    """
    path = uri.removeprefix("sqlite:///")
    if path != uri and path and not path.startswith((":", "file:")):
        return f"sqlite:///{os.path.abspath(path)}"
    return uri


def without_passwords(text: str) -> str:
    """Return `text` without the user names and passwords of the URIs in it: MLflow's errors quote them whole.

    >>> without_passwords("API request to http://me:secret@mlflow.example/api failed")
    'API request to http://mlflow.example/api failed'
    >>> without_passwords("cannot connect to postgresql+psycopg://me:1/2@db.example/mlflow")
    'cannot connect to postgresql+psycopg://db.example/mlflow'
    """
    text = _OF_DATABASE.sub(r"\1", text)
    return re.sub(r"://[^/\s@]+(?:@[^/\s@]+)*@", "://", text)
