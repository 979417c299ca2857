"""The learning curves of plain runs: asked for many at a time, of each run once, and made epochs of."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import truediv
from typing import NamedTuple

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from mlflow_hpo.metalearning.cache import Cache
from mlflow_hpo.metalearning.mined import DAMAGED
from mlflow_hpo.metalearning.plain_listing import PlainRun
from mlflow_hpo.tracking.connect import ask
from mlflow_hpo.tracking.logged import logged_value

_THREADS = 8
_MOST_POINTS = 1000  # of a curve
_EPOCH = 100  # steps between two values, on average; what steps further count are batches, examples, seconds
_FAR = 1000  # times the epochs of the middle one of a task: no epochs of this task


class Point(NamedTuple):
    """A value of a curve: the step that it has, and its number among the values of the curve."""

    step: int
    number: int
    value: float


def plain_curves(
    client: MlflowClient, runs: Iterable[PlainRun], metric: str, cache: Cache
) -> dict[str, list[Point]]:
    """Return the values of each run by ascending step, at least one.

    Raises:
        StudyError: the store cannot be used.
    """
    curves: dict[str, list[Point]] = {}
    unknown = []
    for run in runs:
        if run.step == 0:  # as this is the last step, the metric was logged without steps: no need to ask
            curves[run.run_id] = [_end(run)]
        elif (known := _remembered(run, metric, cache)) is not None:
            curves[run.run_id] = known
        else:
            unknown.append(run)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-curves") as pool:
        found = pool.map(lambda run: _logged(client, run, metric), unknown)
        for run, curve in zip(unknown, found, strict=True):
            curves[run.run_id] = curve
            cache.put(_key(run, metric), _state(run), json.dumps(curve, separators=(",", ":")))
    return curves


class Epochs:
    """What the steps of a task mean.

    Args:
        curves: of its runs, at least one.
    """

    def __init__(self, curves: Sequence[Sequence[Point]]) -> None:
        self._shift = Counter(_shift(curve) for curve in curves).most_common(1)[0][0]
        ends = [curve[-1].step + _shift(curve) for curve in curves]
        counts = [curve[-1].number for curve in curves]
        self._numbered = statistics.median(map(truediv, ends, counts)) > _EPOCH
        self._once = max(counts) == 1
        self._far = _FAR * statistics.median(ends)

    def of(self, curve: Sequence[Point]) -> list[tuple[int, float]] | None:
        """Return a curve as (epoch, value); None where its steps are none of this task."""
        if self._numbered:
            return [(point.number, point.value) for point in curve]
        shift = _shift(curve)
        return self._near([(point.step + shift, point.value) for point in curve])

    def of_last(self, run: PlainRun) -> list[tuple[int, float]] | None:
        """Return the last value of a run whose curve was not read; None where its epoch is not known."""
        last = logged_value(run.last)
        if self._numbered:
            return [(1, last)] if self._once else None
        return self._near([(max(run.step + self._shift, 1), last)])

    def _near(self, curve: list[tuple[int, float]]) -> list[tuple[int, float]] | None:
        """Return a curve unless it ends so far out that the others would be a point beside it."""
        return curve if curve[-1][0] <= self._far else None


def _shift(curve: Sequence[Point]) -> int:
    """Return by how much steps are moved up so that the first is 1 or more."""
    return max(1 - curve[0].step, 0)


def _end(run: PlainRun) -> Point:
    return Point(run.step, 1, logged_value(run.last))


def _key(run: PlainRun, metric: str) -> str:
    return f"{run.run_id} {metric}"


def _state(run: PlainRun) -> str:
    """Return what is other once the curve is: a run may log more after its end."""
    return f"{run.state} {run.step} {run.last!r}"


def _remembered(run: PlainRun, metric: str, cache: Cache) -> list[Point] | None:
    """Return the curve of a run as it was read before."""
    text = cache.get(_key(run, metric), _state(run))
    if text is None:
        return None
    try:
        return [
            Point(int(step), int(number), float(value)) for step, number, value in json.loads(text)
        ] or None
    except DAMAGED:
        return None


def _logged(client: MlflowClient, run: PlainRun, metric: str) -> list[Point]:
    logged = ask(
        "MLFLOW_TRACKING_URI: cannot read the metric of a run", client.get_metric_history, run.run_id, metric
    )
    return _thinned(_points(logged)) or [_end(run)]


def _points(logged: Iterable[Metric]) -> list[Point]:
    """Return the values by ascending step, of each step the last by time."""
    last = {each.step: each.value for each in sorted(logged, key=lambda each: each.timestamp)}
    return [Point(step, number, logged_value(last[step])) for number, step in enumerate(sorted(last), 1)]


def _thinned(points: list[Point]) -> list[Point]:
    """Return not too many points, evenly spread, with the first and the last."""
    if len(points) <= _MOST_POINTS:
        return points
    return [points[at * (len(points) - 1) // (_MOST_POINTS - 1)] for at in range(_MOST_POINTS)]
