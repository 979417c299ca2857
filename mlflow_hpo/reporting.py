"""Reporting: the report of a study among its parent run's artifacts, while it runs and at its end."""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow_hpo.ahead import import_ahead
from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.errors import StudyError
from mlflow_hpo.launchers.processes import own_python
from mlflow_hpo.scratch import scratch_folder
from mlflow_hpo.tracking.curves import Curve
from mlflow_hpo.tracking.tracker import Tracker, writable

REPORT = "report.html"
INTERVAL = 180.0  # seconds at least between the ends of two reports of a study that runs,
SHARE = 0.02  # and no more than about this share of its time goes into them
AHEAD = 5.0  # seconds after which a study imports what its report needs, so that its end waits less
PATIENCE = 60.0  # seconds for which the end of a study waits for its report
LARGE = 1_000  # trials from which on a report is made by another process: it takes much memory and work


class Reporting:
    """Writes the report beside the search, which neither waits for it nor fails for it.

    Args:
        books: of the study.
        tracker: its runs.
        warn: tells the user.
        trials: how many the study is to have.
    """

    def __init__(self, books: Bookkeeper, tracker: Tracker, warn: Callable[[str], None], trials: int) -> None:
        self._books = books
        self._tracker = tracker
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._problem = ""
        now = time.monotonic()
        self._due = now + INTERVAL
        self._imports_due = now + AHEAD if trials < LARGE else math.inf

    def take(self) -> None:
        """Begin to write a report when it is time."""
        now = time.monotonic()
        if now >= self._imports_due:
            self._imports_due = math.inf
            import_ahead(_prepare)
        if now >= self._due and not self._busy() and self._tracker.away is None:
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
        trials = [entry for entry in self._books.ledger.trials.values() if entry.run_id]
        curves = None
        if len(trials) < LARGE:
            curves = {entry.run_id: (entry.epochs[:], entry.values[:]) for entry in trials}
        self._thread = threading.Thread(
            target=self._write, args=(curves,), name="mlflow-hpo-report", daemon=True
        )
        self._thread.start()

    def _busy(self, until: float = 0.0) -> bool:
        if self._thread is None:
            return False
        self._thread.join(max(0.0, until - time.monotonic()))
        return self._thread.is_alive()

    def _write(self, curves: Mapping[str, Curve] | None) -> None:
        began = time.monotonic()
        try:
            with scratch_folder() as folder:
                file = folder / REPORT
                if curves is None:
                    self._make_elsewhere(file)
                else:
                    self._make_here(file, curves)
                self._tracker.log_file(file)
            self._problem = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, the search goes on
            self._problem = f"{type(error).__name__}: {' '.join(writable(str(error)).split()):.200}"
        now = time.monotonic()
        self._due = now + max(INTERVAL, (now - began) / SHARE)

    def _make_here(self, file: Path, curves: Mapping[str, Curve]) -> None:
        from mlflow_hpo.reports.html import page  # takes a while, and is needed only now
        from mlflow_hpo.tracking.details import read_details

        study = read_details(self._tracker.run_id, self._tracker.client, curves)
        file.write_text(page([study]), encoding="utf-8", newline="")

    def _make_elsewhere(self, file: Path) -> None:
        """Have `mlflow-hpo report` make it: this process would never give the memory back."""
        report = own_python("from mlflow_hpo.cli import main; main()")
        done = subprocess.run(
            [*report, "report", self._tracker.run_id, "--output", str(file)],
            env={**os.environ, "MLFLOW_TRACKING_URI": self._tracker.tracking_uri},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the driver's to handle
        )
        if done.returncode:
            raise StudyError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])

    def _missing(self, why: str) -> str:
        return f"no report written ({why}); make it with: mlflow-hpo report {self._tracker.run_id}"


def _prepare() -> None:
    from mlflow_hpo.reports.html import prepare

    prepare()
