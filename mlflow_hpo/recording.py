"""Recording: what MLflow holds of a study, as plain data; a resumed study is gone through again by it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

BROKEN_OFF = "the study ended: "
"""Begins the reason of a trial that ended because its study broke off."""

STOPPED_BY_SCHEDULER = "stopped by the scheduler"
"""Begins the reason of a trial that ended in the middle of a job, as its scheduler wanted it."""


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics that a trial reported after `epoch` epochs, at `time` (seconds since 1970)."""

    epoch: int
    metrics: Mapping[str, float]
    time: float


class Reports(Sequence[Report]):
    """The reports of a trial by ascending epoch, kept small: a study may have millions.

    Args:
        epochs, times: of the reports.
        metrics: name -> its values; NaN stands for one that is NaN, `absent` says where there is none.
        absent: (name, place) of the reports that lack a metric.
    """

    def __init__(
        self,
        epochs: Iterable[int] = (),
        times: Iterable[float] = (),
        metrics: Mapping[str, Iterable[float]] | None = None,
        absent: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self._epochs = array("q", epochs)
        self._times = array("d", times)
        self._metrics = {name: array("d", values) for name, values in (metrics or {}).items()}
        self._absent = absent

    def __len__(self) -> int:
        return len(self._epochs)

    @overload
    def __getitem__(self, place: int) -> Report: ...

    @overload
    def __getitem__(self, place: slice) -> list[Report]: ...

    def __getitem__(self, place: int | slice) -> Report | list[Report]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        metrics = {
            name: values[place]
            for name, values in self._metrics.items()
            if not self._absent or (name, place) not in self._absent
        }
        return Report(self._epochs[place], metrics, self._times[place])

    def after(self, start: int, stop: int) -> list[Report]:
        """Return those of the epochs ``start + 1 .. stop``."""
        return self[bisect_right(self._epochs, start) : bisect_right(self._epochs, stop)]

    @property
    def reached(self) -> int:
        """The furthest epoch; 0 without any."""
        return self._epochs[-1] if self._epochs else 0

    def without_last(self) -> Reports:
        """Return all but the last one."""
        last = len(self) - 1
        return Reports(
            self._epochs[:last],
            self._times[:last],
            {name: values[:last] for name, values in self._metrics.items()},
            frozenset(each for each in self._absent if each[1] < last),
        )


@dataclass(slots=True)
class RecordedTrial:
    """One trial as its run tells it.

    Attributes:
        run_id, location: its run, and the root of its artifacts.
        texts: its params as they are written; none if its driver was killed just after making the run.
        status, reason: MLflow's word for what it is doing, and why it ended.
        rung: of its last job.
        seconds: of the jobs whose end is recorded.
        samples: how many samples of system metrics it has.
        tags: those of this package.
        reports: what it reported, by ascending epoch: the metric that is optimised, and those with
            constraints.
        points: (metric, step) of all that is written, where the run may hold more, or less, than `reports`.
        checkpoints: epoch -> name of those in the store.
    """

    trial_id: int
    run_id: str
    location: str
    texts: dict[str, str]
    status: str
    reason: str = ""
    rung: int = 0
    seconds: float = 0.0
    samples: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    reports: Reports = field(default_factory=Reports)
    points: frozenset[tuple[str, int]] = frozenset()
    checkpoints: dict[int, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it failed by itself, not because its study broke off."""
        return self.status == "FAILED" and self.reason != "" and not self.reason.startswith(BROKEN_OFF)

    @property
    def reached(self) -> int:
        """The furthest epoch that it reported."""
        return self.reports.reached

    def holds(self, metric: str, step: int) -> bool:
        """Whether a value is written already."""
        return (metric, step) in self.points if self.points else step <= self.reached


@dataclass(slots=True)
class Recording:
    """A study as its runs tell it.

    Attributes:
        run_id, tags: of the parent run.
        keys: its search.yaml, as it was last resumed.
        trials: by trial id.
        steps: of its progress metrics that are written.
        epochs, seconds, gpu_hours: spent.
        looked: whether it looked for what earlier runs taught, and found something or not.
    """

    run_id: str
    tags: dict[str, str]
    keys: dict[str, Any]
    trials: dict[int, RecordedTrial]
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    gpu_hours: float = 0.0
    looked: bool = False
