"""Writes to the tracking store in the background: in batches, in order, and through its outages."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StoreAwayError, StudyError
from mlflow_hpo.tracking.backlog import INTERVAL, Backlog, Flight, Waiting
from mlflow_hpo.tracking.batch import Batch
from mlflow_hpo.tracking.connect import store_name, without_passwords
from mlflow_hpo.tracking.creation import Creation
from mlflow_hpo.tracking.outage import is_final, is_outage, pause
from mlflow_hpo.tracking.spool import Spool, spool_folder
from mlflow_hpo.tracking.transport import own_retries

T = TypeVar("T")

CAPACITY = 50_000  # values kept in memory; what comes on top goes into the spool
THREADS = 4  # that write to a server; SQLite takes one writer at a time
ATTEMPTS = 6  # tries where an error may pass or not
REFUSALS = 40  # tries of what a store does not take that takes other writes; some 15 minutes
PATIENCE = 300.0  # seconds without any success that `flush` and `close` wait
AWAY = 2.0  # seconds of errors that count as an outage: it is told, and values go to the disk
HUNG = 10.0  # seconds without an answer that do, too
LOOK = 0.5  # seconds between two looks at whether there is an outage

logger = logging.getLogger(__name__)


class Writer:
    """Gathers values per run and writes them from threads of its own, about one request a run and second.

    Within a run the order is kept: params, metrics and tags before the status that follows them. Runs are
    created at once, without waiting for the values of others.

    While the store is away (it does not answer, is overloaded or has lost its database) nothing is lost and
    nobody waits: it is tried again for as long as it takes, and meanwhile everything is put into a spool on
    the local disk, from which it is written, in order, when the store is back. Should this process die
    before, `sync` writes it. Only when memory and spool are full, `metrics` waits.

    The methods are thread-safe. When the store refuses something for good, every later call raises what was
    refused.

    Args:
        client: of the store.
        study: the parent run; names the spool's folder.
        spool: folder of all spools; None for the user's.
        threads: that write at the same time; None for what the kind of store takes.
        patience: seconds without any success that `flush` and `close` wait for a store that is away.
        on_outage: called from a thread of the writer with the time (seconds since 1970) since which the
            store is away, and with None when it is back.

    Raises:
        StudyError: the store refused something for good (from any method, once it has happened).
    """

    def __init__(
        self,
        client: MlflowClient,
        *,
        study: str = "",
        spool: Path | None = None,
        threads: int | None = None,
        patience: float = PATIENCE,
        on_outage: Callable[[float | None], None] | None = None,
    ) -> None:
        uri = str(getattr(client, "tracking_uri", ""))
        if threads is None:
            threads = 1 if urlsplit(uri).scheme.startswith("sqlite") else THREADS
        self._client = client
        self._patience = patience
        self._on_outage = on_outage
        self._changed = threading.Condition()
        spool_of_study = Spool(
            (spool or spool_folder()) / (study or "runs"), store=store_name(uri), study=study
        )
        self._backlog = Backlog(spool_of_study, CAPACITY)
        self._creations: deque[Creation] = deque()
        self._calls: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._busy = 0  # threads that create a run or make a call
        self._writers = threads
        self._hurry = 0  # how many wait for everything to be written
        self._closed = False
        self._leave = False
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._problem: Exception | None = None  # the last one that may pass
        self._failures = 0  # in a row
        self._successes = 0
        self._last_success = time.monotonic()
        self._failing_since: float | None = None
        self._away_since: float | None = None  # as it was told
        self._next_try = 0.0
        self._probing = False  # one thread tries whether the store is back
        self._waiting_since: float | None = None
        targets = [self._make_calls, self._keep, *([self._send] * threads)]
        self._threads = [
            threading.Thread(
                target=target, daemon=True, name=f"mlflow-hpo{target.__name__.replace('_', '-')}"
            )
            for target in targets
        ]
        for thread in self._threads:
            thread.start()

    def metrics(self, run_id: str, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Gather metrics of one step; `time` in seconds since 1970."""
        stamp = int(time * 1000)
        points = [(key, float(value), stamp, step) for key, value in values.items()]
        with self._open():
            while self._backlog.full and not (self._backlog.spill() or self._error or self._leave):
                self._changed.wait()
            self._add(run_id, Batch(points))

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Gather params; they cannot be changed once written."""
        with self._open():
            self._add(run_id, Batch(params=dict(values)))

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Gather tags."""
        with self._open():
            self._add(run_id, Batch(tags=dict(values)))

    def status(self, run_id: str, status: str) -> None:
        """Gather a status of `mlflow.entities.RunStatus`; an end is dated now, whenever it is written."""
        with self._open():
            self._add(run_id, Batch(status=status, ended=int(time.time() * 1000)))

    def create_run(self, experiment_id: str, *, tags: Mapping[str, str], run_name: str) -> Future[Run]:
        """Create a run as soon as the store takes it; return its future.

        It is tried again like any write, and still becomes one run: where an answer was lost, the run is
        looked for first, by its start, its parent and its tag ``hpo.trial``.
        """
        creation = Creation(experiment_id, dict(tags), run_name)
        with self._open():
            self._creations.append(creation)
            self._changed.notify_all()
        return creation.future

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Make a call from a thread of its own, after those handed over before; return its future.

        It is made once: unlike what the other methods write, not every call may be repeated without harm.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # nobody may cancel it while it is made

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  it belongs to whoever waits for the future
                future.set_exception(error)

        with self._open():
            self._calls.append((run, future))
            self._changed.notify_all()
        return future

    def flush(self) -> None:
        """Wait until everything handed over so far is written.

        Raises:
            StudyError: the store refused something for good.
            StoreAwayError: the store is away for longer than the patience; what it lacks is on the disk.
        """
        with self._open():
            if not self._wait() and self._error is None:
                raise StoreAwayError(self._left())
        self.check()

    def close(self) -> None:
        """Write what is left and end the threads. May be called more than once; does not raise.

        What a store that stays away did not take is left in the spool, and how to write it later is told.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            if not self._wait() and self._error is None:
                logger.warning(self._left())
            elif self._error is not None and self._backlog.spool.path is not None:
                logger.warning("what an outage left is kept in %s", self._backlog.spool.path)
            self._leave = True
            self._refuse(self._error or StudyError("the tracking store is away"))
            self._changed.notify_all()
        self._end()
        with self._changed:
            self._backlog.spool.close()

    def _end(self) -> None:
        self._stop.set()
        deadline = time.monotonic() + AWAY  # a thread that still waits for an answer ends with the process
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        """End the threads without writing what is left, nor keeping it."""
        with self._changed:
            self._closed = self._leave = True
            self._refuse(StudyError("the study is left alone"))
            self._changed.notify_all()
        self._end()
        with self._changed:
            self._backlog.spool.remove()

    def check(self) -> None:
        """Raise if the store refused something for good."""
        if self._error is not None:
            line = without_passwords(" ".join(str(self._error).split()))
            raise StudyError(f"the tracking store cannot be written: {line:.500}") from self._error

    @property
    def failed(self) -> bool:
        """Whether the store refused something for good, and what came after it was not written."""
        return self._error is not None

    @property
    def away(self) -> float | None:
        """For how many seconds the store has been away; None while it answers."""
        since = self._away_since
        return None if since is None else time.monotonic() - since

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._changed:
            self.check()
            yield

    def _add(self, run_id: str, batch: Batch) -> None:
        if self._backlog.add(run_id, batch):
            self._changed.notify_all()  # somebody is to wake when it is due

    def _idle(self) -> bool:
        return self._backlog.empty and not (self._creations or self._calls or self._busy)

    def _wait(self) -> bool:
        """Wait until everything is written; return False if nothing was for as long as the patience lasts.

        What one wait has used of it is not there for the next, unless something was written in between.
        """
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._hurry += 1
        self._changed.notify_all()
        try:
            while self._error is None and not self._idle():
                left = max(self._waiting_since, self._last_success) + self._patience - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 1.0))
        finally:
            self._hurry -= 1
        if self._idle():
            self._waiting_since = None
            return True
        return False

    def _left(self) -> str:
        """Put what is left on the disk; return what to do about it."""
        kept = self._backlog.spill()
        where = f" in {self._backlog.spool.path}" if self._backlog.spool.path is not None else ""
        lost = "" if kept else f", but for {self._backlog.size} values that there is no room for"
        return (
            f"the tracking store is away; what it lacks is kept{where}{lost}: "
            "`mlflow-hpo sync` writes it when the store is back"
        )

    def _refuse(self, error: Exception) -> None:
        """Tell those who wait for what will not be done."""
        while self._calls:
            self._calls.popleft()[1].set_exception(error)
        while self._creations:
            self._creations.popleft().future.set_exception(error)

    def _make_calls(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._leave or self._error)
                if not self._calls:
                    return
                call, future = self._calls.popleft()
                self._busy += 1
            call()
            with self._changed:
                self._busy -= 1
                if future.exception() is None:
                    self._last_success = time.monotonic()
                self._changed.notify_all()

    def _send(self) -> None:
        with own_retries():
            while True:
                with self._changed:
                    try:
                        while (work := self._next()) is None:
                            if self._leave or self._error is not None:
                                return
                            self._changed.wait(self._pause())
                    except OSError as error:  # the spool cannot be read any more
                        self._error = error
                        self._refuse(error)
                        self._changed.notify_all()
                        return
                    self._probing = self._failures > 0
                if isinstance(work, Creation):
                    self._create(work)
                else:
                    self._write(*work)

    def _next(self) -> Creation | tuple[str, Flight] | None:
        """Return what is to be done now, if anything."""
        if self._leave or self._error is not None:
            return None
        if self._failures and (self._probing or time.monotonic() < self._next_try):
            return None
        if self._creations:
            self._busy += 1
            return self._creations.popleft()
        if len(self._backlog.flights) >= max(1, self._writers - 1):
            return None  # one thread is kept for runs that are to be created
        full = self._backlog.full
        work = self._backlog.take(self._hurry > 0 or self._backlog.size >= CAPACITY // 2)
        if full and not self._backlog.full:
            self._changed.notify_all()
        return work

    def _pause(self) -> float:
        """Return for how many seconds there is nothing to do, if nothing changes."""
        if self._failures:
            return INTERVAL if self._probing else max(0.01, self._next_try - time.monotonic())
        due = self._backlog.until_due()
        return max(due, 0.1) if self._backlog.flights else due  # the end of a flight is told

    def _write(self, run_id: str, flight: Flight) -> None:
        """Write a batch, a request at a time."""
        batch = flight.waiting.batch
        try:
            while True:
                with self._changed:
                    request = batch.request(self._client, run_id)
                    if request is None:
                        self._probing = False
                        self._backlog.done(run_id)
                        self._changed.notify_all()
                        return
                try:
                    request.send()
                except MlflowException as error:
                    if not (request.params and is_final(error) and self._leave_out(run_id, batch)):
                        raise
                    continue
                with self._changed:
                    batch.written(request)
                    self._succeeded()
                    if creation := self._creations.popleft() if self._creations else None:
                        self._busy += 1
                if creation is not None:  # somebody waits for it
                    self._create(creation)
        except Exception as error:  # noqa: BLE001  told to the study at its next call, unless it passes
            with self._changed:
                self._write_failed(run_id, flight.waiting, error)

    def _leave_out(self, run_id: str, batch: Batch) -> bool:
        """Leave out of a batch the params that its run has with other values; return whether it has any."""
        there = self._client.get_run(run_id).data.params
        with self._changed:
            return batch.leave_out(there)

    def _write_failed(self, run_id: str, waiting: Waiting, error: Exception) -> None:
        waiting.failures += 1
        waiting.refusals += self._successes > waiting.seen
        waiting.seen = self._successes
        self._backlog.back(run_id)
        if self._hopeless(error, waiting.failures) or waiting.refusals >= REFUSALS:
            self._error = error
            self._refuse(error)
        else:
            self._failed(error)
            waiting.not_before = time.monotonic() + pause(waiting.failures)
        self._changed.notify_all()

    def _create(self, creation: Creation) -> None:
        try:
            run = creation.make(self._client)
        except Exception as error:  # noqa: BLE001  told to whoever waits for the future, unless it passes
            with self._changed:
                self._busy -= 1
                if self._hopeless(error, creation.failures):
                    creation.future.set_exception(error)
                    self._probing = False
                else:
                    self._failed(error)
                    self._creations.appendleft(creation)
                    if self._leave or self._error is not None:
                        self._refuse(self._error or error)
                self._changed.notify_all()
            return
        with self._changed:
            self._busy -= 1
            self._succeeded()
            self._changed.notify_all()
        creation.future.set_result(run)

    def _hopeless(self, error: Exception, failures: int) -> bool:
        return is_final(error) or (failures >= ATTEMPTS and not is_outage(error))

    def _succeeded(self) -> None:
        self._successes += 1
        self._last_success = time.monotonic()
        if self._failures:
            self._failures, self._failing_since, self._probing = 0, None, False
            self._changed.notify_all()

    def _failed(self, error: Exception) -> None:
        self._probing = False
        self._problem = error
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now >= self._next_try:  # else it was on its way when another one failed
            self._failures += 1
            self._next_try = now + pause(self._failures)

    def _keep(self) -> None:
        """While the store is away, say so, and put on the disk what it does not take."""
        while not self._stop.wait(LOOK):
            with self._changed:
                before, self._away_since = self._away_since, self._outage()
                since, problem = self._away_since, self._problem
                if since is not None:
                    self._backlog.spill()
            if since is not None and before is None:
                line = without_passwords(" ".join(str(problem or "it does not answer").split()))
                logger.warning(
                    "the tracking store is away; the study goes on, its values are kept in %s: %.300s",
                    self._backlog.spool.path or "memory",
                    line,
                )
                self._tell(time.time() - (time.monotonic() - since))
            elif since is None and before is not None:
                logger.warning("the tracking store is back after %.0f s", time.monotonic() - before)
                self._tell(None)

    def _outage(self) -> float | None:
        """Return since when the store has been away, in monotonic seconds."""
        now = time.monotonic()
        if self._failing_since is not None:
            return self._failing_since if now - self._failing_since >= AWAY else self._away_since
        asked = min((flight.begun for flight in self._backlog.flights.values()), default=now)
        asked = max(asked, self._last_success)
        return asked if now - asked >= HUNG else None

    def _tell(self, since: float | None) -> None:
        if self._on_outage is not None:
            try:
                self._on_outage(since)
            except Exception:
                logger.exception("on_outage failed")
