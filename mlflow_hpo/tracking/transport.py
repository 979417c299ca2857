"""The way to the tracking store made quick, by public hooks of SQLAlchemy, urllib3 and requests.

Nothing here changes what is written. Where a hook does not fit the installed MLflow any more, MLflow's own,
slower way is taken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

CONNECT_TIMEOUT = 5.0  # seconds, where the caller tries again by itself
READ_TIMEOUT = 30.0  # likewise; the user's own MLFLOW_HTTP_REQUEST_TIMEOUT goes first
CONNECTIONS = 16  # kept open to one server
SMALL = 250  # points of metrics, of which any index is as good
OUTDATED = 4.0  # times the points that the statistics are of
LOOKED_AT = 400  # entries of each index, for the statistics: takes some milliseconds
SHARED = (
    "nfs",
    "cifs",
    "smb",
    "ceph",
    "lustre",
    "gluster",
    "gpfs",
    "beegfs",
    "fuse",
    "9p",
    "afs",
    "virtiofs",
)

logger = logging.getLogger(__name__)

_own_retries: ContextVar[bool] = ContextVar("own_retries", default=False)


@contextlib.contextmanager
def own_retries() -> Iterator[None]:
    """Have requests of this thread fail at once: whoever makes them tries again by itself.

    MLflow alone repeats a request inside of it, for up to four minutes.
    """
    token = _own_retries.set(True)
    try:
        yield
    finally:
        _own_retries.reset(token)


def hasten(uri: str) -> None:
    """Make what MLflow does on the store of `uri`, in this process, quicker; does not raise."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    try:
        if scheme == "sqlite":
            _hasten_sqlite(uri)
        elif scheme in ("http", "https"):
            _hasten_http(uri)
    except Exception as error:  # noqa: BLE001  it only costs time
        logger.debug("requests to the tracking store stay as slow as MLflow makes them: %s", error)


def _hasten_sqlite(uri: str) -> None:
    """Have SQLite commit without waiting for the disk each time, and readers not wait for writers.

    Write-ahead logging stays in the file. With `synchronous=NORMAL` a power failure may take the last
    seconds' commits, never the database; a crash of the process takes nothing. Besides, have SQLite know how
    many points a run has: otherwise it reads those of all runs to find one run's.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine, make_url

    name = make_url(uri).database
    if not name or name == ":memory:" or name.startswith("file:"):
        return
    path = os.path.realpath(name)
    if on_network(Path(path)):  # its processes on different machines would not see each other's log
        return

    mark = f"mlflow_hpo {path}"  # each store's listener looks at each connection once

    def tune(connection: Any, record: Any, proxy: Any) -> None:
        if mark in record.info:
            return
        record.info[mark] = True
        if isinstance(connection, sqlite3.Connection) and _file_of(connection) == path:
            with contextlib.suppress(sqlite3.Error):  # somebody else holds the file: the next connection may
                connection.execute("PRAGMA journal_mode=WAL").close()
                _count_points(connection)
            connection.execute("PRAGMA synchronous=NORMAL").close()

    if path not in _tuned:
        _tuned.add(path)
        event.listen(Engine, "checkout", tune)  # not "connect": MLflow may have connected before


_tuned: set[str] = set()  # SQLite files whose connections are listened for


def _count_points(connection: sqlite3.Connection) -> None:
    """Have the statistics made that SQLite chooses indices by, where there are none or they are outdated."""
    [rows] = connection.execute("SELECT coalesce(max(rowid), 0) FROM metrics").fetchone()
    known = 0
    with contextlib.suppress(sqlite3.OperationalError):  # there are none
        of_metrics = "SELECT coalesce(max(CAST(stat AS INTEGER)), 0) FROM sqlite_stat1 WHERE tbl = 'metrics'"
        [known] = connection.execute(of_metrics).fetchone()
    if rows > OUTDATED * max(known, SMALL):
        connection.execute(f"PRAGMA analysis_limit={LOOKED_AT}").close()
        connection.execute("ANALYZE metrics").close()


def _file_of(connection: sqlite3.Connection) -> str:
    rows = connection.execute("PRAGMA database_list").fetchall()
    return next((os.path.realpath(file) for _, name, file in rows if name == "main" and file), "")


def on_network(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Return whether a file lies on a file system that several machines may share, as far as one can tell."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return False
    kinds = {words[1]: words[2] for words in lines if len(words) > 2}
    for folder in path.parents:
        if (kind := kinds.get(str(folder).replace(" ", "\\040"))) is not None:
            return kind.startswith(SHARED)
    return False


def _hasten_http(uri: str) -> None:
    from mlflow import environment_variables as settings
    from mlflow.utils import request_utils

    prefix = uri.rstrip("/") + "/"
    retries = settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES
    # MLflow keeps a session for each number of retries, and another thread may be impatient at this moment
    for number in {retries.get(), retries.default}:
        session = request_utils._get_request_session(
            number,
            settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get(),
            settings.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get(),
            request_utils._TRANSIENT_FAILURE_RESPONSE_CODES,
            True,
            settings.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get(),
        )
        usual = session.get_adapter(prefix)
        if not isinstance(usual, _QuickAdapter):
            session.mount(prefix, _QuickAdapter(usual))


class _QuickAdapter(BaseAdapter):
    """MLflow's adapter with quick connections, and beside it one that does not try again."""

    def __init__(self, usual: HTTPAdapter) -> None:
        super().__init__()
        self._usual = usual
        self._once = type(usual)(pool_maxsize=CONNECTIONS, max_retries=0)
        for adapter in (self._usual, self._once):
            if hasattr(socket, "TCP_QUICKACK"):  # Linux
                adapter.poolmanager.pool_classes_by_scheme = {"http": _QuickPool, "https": _QuickPoolTLS}
                adapter.poolmanager.clear()  # connections that were made before

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request."""
        adapter = self._usual
        if _own_retries.get():
            adapter = self._once
            if isinstance(timeout, (int, float)) and "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ:
                timeout = (min(CONNECT_TIMEOUT, timeout), min(READ_TIMEOUT, timeout))
        return adapter.send(
            request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies
        )

    def close(self) -> None:
        """Close the connections."""
        self._usual.close()
        self._once.close()


def _acknowledge_at_once(connection: Any) -> None:
    """Let the kernel acknowledge the head of an answer before its body has come.

    The server sends them apart, and its Nagle algorithm holds the body back until then: 40 ms. The setting
    lasts for one answer.
    """
    if (sock := connection.sock) is not None:
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class _QuickConnection(HTTPConnection):
    def getresponse(self) -> Any:
        _acknowledge_at_once(self)
        return super().getresponse()


class _QuickConnectionTLS(HTTPSConnection):
    def getresponse(self) -> Any:
        _acknowledge_at_once(self)
        return super().getresponse()


class _QuickPool(HTTPConnectionPool):
    ConnectionCls = _QuickConnection


class _QuickPoolTLS(HTTPSConnectionPool):
    ConnectionCls = _QuickConnectionTLS
