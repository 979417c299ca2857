"""Arrivals: jobs begin before their runs are there, and are heard once they are."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from mlflow_hpo.launchers.base import Ended, Event
from mlflow_hpo.tracking.runs import TrialRun

PATIENCE = 2.0  # seconds after its job began that all wait for a run; then the others go on without it


@dataclass(slots=True)
class _Expected:
    """A run that is on its way, and what its trial has told meanwhile."""

    run: Future[TrialRun]
    since: float = field(default_factory=time.monotonic)
    told: list[Event] = field(default_factory=list)


class Arrivals:
    """Holds back what trials tell until their runs are there to take it.

    To create a run takes a server some time, in which its job can begin already. As a report is answered only
    once it is heard, nothing that a trial finds out can get lost while there is no place to write it to.

    Args:
        arrived: called with a trial and its run before anything is heard of it.
    """

    def __init__(self, arrived: Callable[[int, TrialRun], None]) -> None:
        self._arrived = arrived
        self._expected: dict[int, _Expected] = {}
        self._telling: set[int] = set()  # those of whom something is held back
        self._due = 0.0  # until when all wait for them
        self._there: queue.SimpleQueue[int] = queue.SimpleQueue()  # trials whose runs have come

    def expect(self, trial_id: int, run: Future[TrialRun]) -> None:
        """Hold back what a trial tells from now on, until its run is there."""
        self._expected[trial_id] = _Expected(run)
        run.add_done_callback(lambda _: self._there.put(trial_id))

    def admit(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield what may be heard now, for each trial in its order.

        Raises:
            StudyError: a run cannot be created.
        """
        for event in events:
            if (expected := self._expected.get(event.trial_id)) is None:
                yield event
            else:
                expected.told.append(event)
                self._telling.add(event.trial_id)
                self._due = max(self._due, expected.since + PATIENCE)
        for trial_id in self._come():
            expected = self._expected.pop(trial_id)
            self._telling.discard(trial_id)
            self._arrived(trial_id, expected.run.result())
            yield from expected.told

    def ended(self, trial_id: int) -> bool:
        """Whether the job of a trial has ended, and waits for nothing but its run to be heard."""
        expected = self._expected.get(trial_id)
        return expected is not None and any(isinstance(event, Ended) for event in expected.told)

    def _come(self) -> Iterator[int]:
        """Yield the trials whose runs have come; wait for one of those who have told something, if they are
        due soon.
        """
        waits = bool(self._telling)
        while True:
            left = self._due - time.monotonic() if waits else 0.0
            try:
                trial_id = self._there.get(timeout=left) if left > 0 else self._there.get_nowait()
            except queue.Empty:
                return
            waits = waits and trial_id not in self._telling
            yield trial_id
