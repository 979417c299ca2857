"""A writer for a study that goes on: it passes on only what its runs do not hold yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mlflow.entities import Run

from mlflow_hpo.recording import RecordedTrial, Recording
from mlflow_hpo.tracking.lease import DRIVER
from mlflow_hpo.tracking.writer import Writer

T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    """What a run will be told; the latest of each counts."""

    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None


class KnownRunsWriter:
    """Stands before the writer of a resumed study.

    While the study is gone through again its tags and statuses are held back, as they pass through states
    that are long over; `release` writes those that are other than what the runs hold. Values that are
    written are never written twice.

    Args:
        writer: who writes.
        recording: what the runs hold.
    """

    def __init__(self, writer: Writer, recording: Recording) -> None:
        self._writer = writer
        self._study = recording.run_id
        self._steps = recording.steps
        self._trials: dict[str, RecordedTrial] = {each.run_id: each for each in recording.trials.values()}
        self._tags = {run_id: dict(trial.tags) for run_id, trial in self._trials.items()}
        study = {name: value for name, value in recording.tags.items() if name != DRIVER}  # it has changed
        self._tags[recording.run_id] = study
        self._statuses = {run_id: trial.status for run_id, trial in self._trials.items()}
        self._held: dict[str, _Held] | None = {}

    def metrics(self, run_id: str, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Pass on what is new of one step."""
        trial = self._trials.get(run_id)
        if trial is not None:
            values = {name: value for name, value in values.items() if not trial.holds(name, step)}
        elif run_id == self._study and step < self._steps:
            return
        if values:
            self._writer.metrics(run_id, values, step=step, time=time)

    def params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Pass on the params that the run does not have."""
        trial = self._trials.get(run_id)
        known = {} if trial is None else trial.texts
        if new := {name: value for name, value in values.items() if name not in known}:
            self._writer.params(run_id, new)

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Hold tags back, or pass on those that the run does not have."""
        if self._held is not None and run_id in self._tags:
            self._held.setdefault(run_id, _Held()).tags.update(values)
            return
        known = self._tags.get(run_id, {})
        if new := {name: value for name, value in values.items() if known.get(name) != value}:
            self._writer.tags(run_id, new)
            if run_id in self._tags:
                known.update(new)

    def status(self, run_id: str, status: str) -> None:
        """Hold a status back, or pass it on if it is another one."""
        if self._held is not None and run_id in self._statuses:
            self._held.setdefault(run_id, _Held()).status = status
        elif self._statuses.get(run_id) != status:
            self._writer.status(run_id, status)
            if run_id in self._statuses:
                self._statuses[run_id] = status

    def release(self) -> None:
        """Write what was held back and is new; from now on nothing is held back."""
        held, self._held = self._held or {}, None
        for run_id, each in held.items():
            self.tags(run_id, each.tags)
            if each.status is not None:
                self.status(run_id, each.status)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Make a call of the store, as the writer does."""
        return self._writer.call(function, *args, **kwargs)

    def create_run(self, experiment_id: str, *, tags: Mapping[str, str], run_name: str) -> Future[Run]:
        """Create a run, as the writer does."""
        return self._writer.create_run(experiment_id, tags=tags, run_name=run_name)

    def flush(self) -> None:
        """Wait until everything handed over so far is written."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and end the writer."""
        self._writer.close()

    def abandon(self) -> None:
        """End the writer without writing what is left."""
        self._writer.abandon()

    @property
    def away(self) -> float | None:
        """For how many seconds the store has been away; None while it answers."""
        return self._writer.away

    @property
    def failed(self) -> bool:
        """Whether the store refused something for good."""
        return self._writer.failed
