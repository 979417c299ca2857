"""Reporting: the report of a study among its parent run's artifacts, while it runs and at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.tracking.curves import Curve
from mlflow_hpo.tracking.tracker import Tracker, writable

INTERVAL = 180.0  # seconds at least between the ends of two reports of a study that runs,
SHARE = 0.02  # and no more than about this share of its time goes into them
PATIENCE = 60.0  # seconds for which the end of a study waits for its report


class Reporting:
    """Writes the report in a thread of its own: the search neither waits for it nor fails for it.

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
            from mlflow_hpo.reports.html import REPORT, page
            from mlflow_hpo.tracking.details import read_details

            study = read_details(self._tracker.run_id, self._tracker.client, curves)
            self._tracker.log_text(REPORT, page([study]))
            self._problem = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the search goes on
            self._problem = f"{type(error).__name__}: {' '.join(writable(str(error)).split()):.200}"
        now = time.monotonic()
        self._due = now + max(INTERVAL, (now - began) / SHARE)

    def _missing(self, why: str) -> str:
        return f"no report written ({why}); make it with: mlflow-hpo report {self._tracker.run_id}"
