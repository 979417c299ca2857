"""Reporting: the report of a study among its parent run's artifacts, while it runs and at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.errors import StudyError
from mlflow_hpo.tracking.curves import Curve
from mlflow_hpo.tracking.tracker import Tracker, writable

REPORT = "report.html"
INTERVAL = 180.0  # seconds at least between the ends of two reports of a study that runs,
SHARE = 0.02  # and no more than about this share of its time goes into them
PATIENCE = 60.0  # seconds for which the end of a study waits for its report
LARGE = 1_000  # trials from which on a report is made by another process: it takes much memory and work


class Reporting:
    """Writes the report beside the search, which neither waits for it nor fails for it.

    Args:
        books: of the study.
        tracker: its runs.
        warn: tells the user.
    """

    def __init__(self, books: Bookkeeper, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._books = books
        self._tracker = tracker
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._due = time.monotonic() + INTERVAL

    def take(self) -> None:
        """Begin to write a report when it is time."""
        if time.monotonic() >= self._due and not self._busy() and self._tracker.away is None:
            self._begin()

    def leave(self) -> None:
        """Write the last report, of a study whose runs are all written."""
        if not self._books.ledger.trials or self._tracker.away is not None:
            return
        until = time.monotonic() + PATIENCE
        if self._busy(until):  # what it writes is not the end
            self._warn(self._missing("the one before takes too long"))
            return
        self._begin()
        if self._busy(until):
            self._warn(self._missing("it takes too long"))
        elif self._problem:
            self._warn(self._missing(self._problem))

    def _begin(self) -> None:
        curves = {
            entry.run_id: (entry.epochs[:], entry.values[:])
            for entry in self._books.ledger.trials.values()
            if entry.run_id
        }
        self._thread = threading.Thread(
            target=self._write, args=(curves,), name="mlflow-hpo-report", daemon=True
        )
        self._thread.start()

    def _busy(self, until: float = 0.0) -> bool:
        if self._thread is None:
            return False
        self._thread.join(max(0.0, until - time.monotonic()))
        return self._thread.is_alive()

    def _write(self, curves: dict[str, Curve]) -> None:
        began = time.monotonic()
        try:
            make = self._made_elsewhere if len(curves) >= LARGE else self._made_here
            self._tracker.log_text(REPORT, make(curves))
            self._problem = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the search goes on
            self._problem = f"{type(error).__name__}: {' '.join(writable(str(error)).split()):.200}"
        now = time.monotonic()
        self._due = now + max(INTERVAL, (now - began) / SHARE)

    def _made_here(self, curves: Mapping[str, Curve]) -> str:
        from mlflow_hpo.reports.html import page  # takes a while, and is needed only now
        from mlflow_hpo.tracking.details import read_details

        return page([read_details(self._tracker.run_id, self._tracker.client, curves)])

    def _made_elsewhere(self, _: Mapping[str, Curve]) -> str:
        """Return what `mlflow-hpo report` makes; it ends with this process, which reads what it writes."""
        code = f"import sys; sys.path[:] = {sys.path!r}; from mlflow_hpo.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "report", self._tracker.run_id, "--output", "-"],
            env={**os.environ, "MLFLOW_TRACKING_URI": self._tracker.tracking_uri},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,  # Ctrl-C is the driver's to handle
        )
        if done.returncode:
            raise StudyError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        return done.stdout.decode()

    def _missing(self, why: str) -> str:
        return f"no report written ({why}); make it with: mlflow-hpo report {self._tracker.run_id}"
