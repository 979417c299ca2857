"""Backlog: what waits to be written to the tracking store, in memory and on disk, in order."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field

from mlflow_hpo.tracking.batch import Batch
from mlflow_hpo.tracking.spool import Spool

INTERVAL = 1.0  # seconds for which the values of a run are gathered
READ = 5_000  # values that are read from the spool at a time

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Waiting:
    """What waits to be written to one run; times in monotonic seconds."""

    since: float
    batch: Batch = field(default_factory=Batch)
    failures: int = 0  # in a row
    refusals: int = 0  # of these, while the store took other writes
    seen: int = 0  # writes that the store had taken at the last failure
    not_before: float = 0.0


@dataclass(slots=True)
class Flight:
    """What is being written to one run."""

    waiting: Waiting
    from_spool: bool
    begun: float
    copied: bool = False  # it is in the spool, too
    read: int = 0  # how far the spool was read when it began


@dataclass(slots=True)
class _Read:
    """What was read from the spool at a time: up to where, and the runs of which the store lacks some."""

    position: int
    left: set[str]


class Backlog:
    """Batches by run: those in memory are newer than those in the spool, which are written first.

    A run is in one flight at a time. Not thread-safe, and neither waits nor writes to the store.

    Args:
        spool: where to put what memory cannot hold, or what is to outlive the process.
        capacity: values that memory may hold.
    """

    def __init__(self, spool: Spool, capacity: int) -> None:
        self.spool = spool
        self.flights: dict[str, Flight] = {}
        self.size = 0  # values in the buffers
        self._capacity = capacity
        self._buffers: dict[str, Waiting] = {}
        self._chunk: dict[str, Waiting] = {}  # read from the spool
        self._reads: deque[_Read] = deque()
        self._spool_fails = False

    @property
    def empty(self) -> bool:
        """Whether everything is written."""
        return not (self._buffers or self.flights or self._spooled)

    @property
    def full(self) -> bool:
        """Whether memory holds as much as it may."""
        return self.size >= self._capacity

    @property
    def _spooled(self) -> bool:
        return bool(self._chunk) or self.spool.unread

    def add(self, run_id: str, batch: Batch) -> bool:
        """Take in values; return whether there was nothing in memory before."""
        first = not self._buffers
        waiting = self._buffers.get(run_id)
        if waiting is None:
            waiting = self._buffers[run_id] = Waiting(time.monotonic())
        before = len(waiting.batch)
        waiting.batch.add(batch)
        self.size += len(waiting.batch) - before
        return first

    def take(self, at_once: bool) -> tuple[str, Flight] | None:
        """Return a run that is due and its flight, which has to end by `done` or `back`."""
        now = time.monotonic()
        spooled = self._spooled
        while True:
            for run_id, waiting in self._chunk.items():
                if run_id not in self.flights and now >= waiting.not_before:
                    return self._fly(self._chunk, run_id, now)
            # runs that fail are not to hold up the others
            if not self.spool.unread or sum(len(w.batch) for w in self._chunk.values()) >= self._capacity:
                break
            batches = self.spool.read(READ)
            self._reads.append(_Read(self.spool.position, set(batches)))
            for run_id, batch in batches.items():
                self._chunk.setdefault(run_id, Waiting(now)).batch.add(batch)
        if self.spool.unread:
            return None  # of whatever run there may be something older
        for run_id, waiting in self._buffers.items():
            if not (at_once or spooled or now >= waiting.since + INTERVAL):
                break  # so are all that came later
            if run_id not in self.flights and run_id not in self._chunk and now >= waiting.not_before:
                self.size -= len(waiting.batch)
                return self._fly(self._buffers, run_id, now)
        return None

    def _fly(self, source: dict[str, Waiting], run_id: str, now: float) -> tuple[str, Flight]:
        flight = self.flights[run_id] = Flight(
            source.pop(run_id), source is self._chunk, now, read=self.spool.position
        )
        return run_id, flight

    def _written(self, run_id: str, position: int) -> None:
        """Note that the store has what the spool held of a run up to there."""
        for read in self._reads:
            if read.position <= position:
                read.left.discard(run_id)
        written = 0
        while self._reads and not self._reads[0].left:
            written = self._reads.popleft().position
        if written:
            self.spool.written(written)

    def done(self, run_id: str) -> None:
        """End a flight that has written everything."""
        flight = self.flights.pop(run_id)
        if flight.from_spool:
            self._written(run_id, flight.read)
        if self.spool.path is not None and not (
            self._spooled or any(flight.from_spool for flight in self.flights.values())
        ):
            self.spool.remove()
            self._reads.clear()

    def back(self, run_id: str) -> None:
        """End a flight that has failed: what it has not written waits again, after the other runs."""
        flight = self.flights.pop(run_id)
        waiting = flight.waiting
        if flight.from_spool:
            if (newer := self._chunk.pop(run_id, None)) is not None:
                waiting.batch.add(newer.batch)
            self._chunk[run_id] = waiting
        elif not flight.copied:
            self.size += len(waiting.batch)
            if (newer := self._buffers.pop(run_id, None)) is not None:
                self.size -= len(newer.batch) + len(waiting.batch)
                waiting.batch.add(newer.batch)
                self.size += len(waiting.batch)
            self._buffers[run_id] = waiting

    def spill(self) -> bool:
        """Put everything in memory on the disk; return whether that was possible."""
        flights = [
            (run_id, flight)
            for run_id, flight in self.flights.items()
            if not (flight.from_spool or flight.copied)
        ]
        batches = [(run_id, flight.waiting.batch) for run_id, flight in flights]
        batches += [(run_id, waiting.batch) for run_id, waiting in self._buffers.items()]
        if not any(len(batch) for _, batch in batches):
            return True
        try:
            room = self.spool.append(batches)
        except OSError as error:
            room = False
            if not self._spool_fails:
                logger.warning("values cannot be kept on disk: %s", error)
            self._spool_fails = True
        if not room:
            return False
        for _, flight in flights:
            flight.copied = True
        self._buffers.clear()
        self.size = 0
        return True

    def until_due(self) -> float:
        """Return for how many seconds nothing is due, at most `INTERVAL`."""
        now = time.monotonic()
        waits = [waiting.not_before - now for waiting in self._chunk.values()]
        if (first := next(iter(self._buffers.values()), None)) is not None:
            waits.append(max(first.since + INTERVAL, first.not_before) - now)
        return min([INTERVAL, *(max(0.01, wait) for wait in waits)])
