"""One background thread that writes to the tracking store, in batches, in order."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StudyError
from mlflow_hpo.tracking.connect import without_passwords

T = TypeVar("T")

INTERVAL = 1.0  # seconds between two batches
CAPACITY = 50_000  # buffered values beyond which `metrics` waits for the store
BATCH = 1_000  # values a log_batch request may carry; params and tags: 100 each
ATTEMPTS = 6  # tries of one request, with pauses of 0.5, 1, 2, 4 and 8 seconds between them
FINAL_ERRORS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED"}
)

logger = logging.getLogger(__name__)


def is_final(error: Exception) -> bool:
    """Whether the store will refuse the same request again, however often it is made."""
    return isinstance(error, MlflowException) and error.error_code in FINAL_ERRORS


@dataclass(slots=True)
class _RunBuffer:
    """What waits to be written to one run; of a tag and of the status only the latest counts."""

    metrics: list[Metric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None


class Writer:
    """Buffers values per run and writes them from one thread, a few requests a second.

    Within a run the order is kept: params, metrics and tags before the status that follows them. Calls
    handed to `call` are made at once, in their own order, without waiting for the buffered values of other
    runs.

    The methods are thread-safe. When the store keeps refusing, every later call raises what was refused.

    Raises:
        StudyError: the store could not be written to (from any method, once it has happened).
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._buffers: dict[str, _RunBuffer] = {}
        self._calls: list[tuple[Callable[[], None], Future[Any]]] = []
        self._size = 0
        self._writing = False
        self._flushing = False
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-hpo-writer")
        self._thread.start()

    def metrics(self, run_id: str, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Buffer metrics of one step; `time` in seconds since 1970."""
        stamp = int(time * 1000)
        with self._open():
            self._changed.wait_for(lambda: self._size < CAPACITY or self._error is not None)
            buffer = self._buffer(run_id)
            buffer.metrics += [Metric(key, value, stamp, step) for key, value in values.items()]
            self._size += len(values)

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Buffer params; they cannot be changed once written."""
        with self._open():
            self._buffer(run_id).params.update(values)

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Buffer tags."""
        with self._open():
            self._buffer(run_id).tags.update(values)

    def status(self, run_id: str, status: str) -> None:
        """Buffer a status of `mlflow.entities.RunStatus`."""
        with self._open():
            self._buffer(run_id).status = status

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Make a call of the store from the writer's thread; return its future.

        It is made once: unlike the buffered values, not every call may be repeated without harm.
        """
        future: Future[T] = Future()

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
        """Wait until everything handed over so far is written."""
        with self._open():
            self._flushing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error is not None or self._idle())
        self.check()

    def close(self) -> None:
        """Write what is left and end the thread. May be called more than once; does not raise."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def abandon(self) -> None:
        """End the thread without writing what is left."""
        with self._changed:
            self._buffers, self._calls, self._size = {}, [], 0
        self.close()

    def check(self) -> None:
        """Raise if the store refused something for good."""
        if self._error is not None:
            line = without_passwords(" ".join(str(self._error).split()))
            raise StudyError(f"the tracking store cannot be written: {line:.500}") from self._error

    @property
    def failed(self) -> bool:
        """Whether the store refused something for good, and what came after it was not written."""
        return self._error is not None

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._changed:
            self.check()
            yield

    def _buffer(self, run_id: str) -> _RunBuffer:
        return self._buffers.setdefault(run_id, _RunBuffer())

    def _idle(self) -> bool:
        return not (self._buffers or self._calls or self._writing)

    def _run(self) -> None:
        due = time.monotonic() + INTERVAL
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._calls or self._flushing or self._closed or self._size >= CAPACITY // 2,
                    timeout=max(0.0, due - time.monotonic()),
                )
                calls, self._calls = self._calls, []
                buffers: dict[str, _RunBuffer] = {}
                if not calls or self._flushing or self._closed or time.monotonic() >= due:
                    buffers, self._buffers = self._buffers, {}
                    self._size = 0
                    due = time.monotonic() + INTERVAL
                self._writing = True
                leave = self._closed and not calls and not buffers
                self._flushing = self._flushing and bool(calls or buffers)
            try:
                for call, _ in calls:
                    call()
                for run_id, buffer in buffers.items():
                    self._write(run_id, buffer)
            except Exception as error:  # noqa: BLE001  told to the study at its next call
                self._error = error
                leave = True
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                refused = self._calls if self._error is not None else []
            for _, future in refused:  # somebody may be waiting for them
                future.set_exception(self._error)
            if leave:
                return

    def _write(self, run_id: str, buffer: _RunBuffer) -> None:
        params = [Param(key, value) for key, value in buffer.params.items()]
        tags = [RunTag(key, value) for key, value in buffer.tags.items()]
        metrics = buffer.metrics
        while params or tags or metrics:
            some_params, params = params[:100], params[100:]
            some_tags, tags = tags[:100], tags[100:]
            room = BATCH - len(some_params) - len(some_tags)
            some_metrics, metrics = metrics[:room], metrics[room:]
            self._insist(
                self._client.log_batch, run_id, metrics=some_metrics, params=some_params, tags=some_tags
            )
        if buffer.status in ("RUNNING", "SCHEDULED"):
            self._insist(self._client.update_run, run_id, status=buffer.status)
        elif buffer.status is not None:
            self._insist(self._client.set_terminated, run_id, status=buffer.status)

    def _insist(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the store again when it fails for the moment. Buffered values may be written twice without
        harm.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if is_final(error) or attempt == ATTEMPTS:
                    raise
                logger.warning(
                    "the tracking store refused a write, trying again: %s", without_passwords(str(error))
                )
                time.sleep(0.5 * 2 ** (attempt - 1))
        raise AssertionError("unreachable")
