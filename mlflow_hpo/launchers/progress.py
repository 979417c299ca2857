"""Progress: what a script has logged by itself, turned into the reports of its job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow_hpo.steps import Point, by_epoch, may_be_final


@dataclass(frozen=True, slots=True)
class Told:
    """What is to be reported of an epoch; `time` in seconds since 1970."""

    epoch: int
    metrics: dict[str, float]
    time: float


class Progress:
    """Turns the metrics of a run, read again and again, into reports by ascending epoch, each made once.

    A value that may be the only one, logged at the script's end, waits until it is known whether it is, but
    where `by_step` says that the scripts of this project log epoch by epoch. A script that ends by itself
    before `stop` (it logs its result only, has an early stopping of its own) has trained to its end: its last
    values count at `stop`. So do those from before `stop` where a script passes over it.

    Args:
        metrics: names of those that the search looks at, the optimised one first.
        start, stop: of the job; nothing at or before `start` is reported.
        most: epochs of a full training; a first value behind them is at no epoch.
        counted: the values are counted, whatever their steps.
    """

    def __init__(
        self, metrics: Sequence[str], start: int, stop: int, *, most: int | None = None, counted: bool = False
    ) -> None:
        self._metric, *self._others = metrics
        self._stop = stop
        self._told = start
        self._last_seen = 0  # at the look before this one
        self._seen = dict.fromkeys(self._others, 0)  # up to which epoch
        self._most = most
        self._counted = counted
        self.misplaced: int | None = None  # the step of the first value, if that can be no epoch
        self.beyond = False  # the script has gone on behind `stop`
        self.by_step = False  # it has logged by epoch

    @property
    def complete(self) -> bool:
        """Whether `stop` is reported."""
        return self._told >= self._stop

    def news(
        self, logged: Mapping[str, Sequence[Point]], *, by_step: bool = False, over: bool, whole: bool = False
    ) -> list[Told]:
        """Return what is to be reported now.

        Args:
            logged: all that is logged of the metrics.
            by_step: whether other scripts of the project have logged by epoch.
            over: whether the script has ended, and nothing more will come.
            whole: whether it ended well.
        """
        points = logged.get(self._metric, ())
        self.by_step = len(points) > 0 and not may_be_final(points)
        epochs = by_epoch(points, counted=self._counted)
        if not by_step and not self.by_step:
            if not over:
                return []
            if whole and points:
                epochs = {self._stop: points[0]}
        if self._told == 0 and self._most is not None and min(epochs, default=0) > self._most:
            self.misplaced = min(point.step for point in points)
            return []
        self.beyond = any(epoch > self._stop for epoch in epochs)
        due = [epoch for epoch in epochs if self._told < epoch <= self._stop]
        if self._others and not over and due and due[-1] > self._last_seen:
            self._last_seen = due[-1]
            due.pop()  # the other metrics of this epoch may still be on their way
        told = [self._tell(epoch, epochs[epoch], logged) for epoch in due]
        if epochs and not self.complete and (whole or (self.beyond and self._is_next(epochs))):
            within = [epoch for epoch in epochs if epoch <= self._stop]
            told.append(self._tell(self._stop, epochs[max(within, default=min(epochs))], logged))
        return told

    def _is_next(self, epochs: Mapping[int, Point]) -> bool:
        """Whether nothing before `stop` is left to be told."""
        return not any(self._told < epoch <= self._stop for epoch in epochs)

    def _tell(self, epoch: int, point: Point, logged: Mapping[str, Sequence[Point]]) -> Told:
        metrics = {self._metric: point.value}
        for name in self._others:
            for at, other in by_epoch(logged.get(name, ()), counted=self._counted).items():
                if self._seen[name] < at <= epoch or (epoch == self._stop and at > self._seen[name]):
                    metrics[name], self._seen[name] = other.value, at
        self._told = epoch
        return Told(epoch, metrics, point.time)
