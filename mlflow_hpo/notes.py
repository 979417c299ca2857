"""Notes: what a study writes of its trials for its own resume, and for later studies."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.tracking.history import HISTORY, NOTES, WRITTEN
from mlflow_hpo.tracking.tracker import Tracker, writable

INTERVAL = 20.0  # seconds at least between two notes for a resume,
GROWTH = 1.1  # and so many times the trials of the last one


class Notes:
    """Writes the trials and their curves to the parent run, now and then and at the end.

    Args:
        books: of the study.
        tracker: its runs.
        warn: tells the user.
    """

    def __init__(self, books: Bookkeeper, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._books = books
        self._tracker = tracker
        self._warn = warn
        self._trials = 0  # that the last notes are of
        self._written = time.monotonic()
        self._left = False

    def take(self) -> None:
        """Write down what there is when it is time, so that a study with many trials is resumed quickly."""
        trials, now = len(self._books.ledger.trials), time.monotonic()
        if trials < GROWTH * self._trials or now - self._written < INTERVAL:
            return
        self._trials, self._written = trials, now
        self._tracker.log_later(NOTES, self._books.history())

    def leave(self) -> None:
        """Write what later studies may learn, once; this one does not fail for it."""
        if self._left or not self._books.ledger.trials:
            return
        try:
            self._tracker.log_text(HISTORY, self._books.history())
        except Exception as error:  # noqa: BLE001 - artifact stores raise what they like
            self._warn(f"no history left for later studies: {writable(str(error)):.200}")
            return
        self._left = True
        self._tracker.tags(
            self._tracker.run_id,
            {WRITTEN: str(sum(entry.run is not None for entry in self._books.ledger.trials.values()))},
        )
