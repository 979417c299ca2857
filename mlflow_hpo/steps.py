"""Steps: at which epoch a value counts that a script has logged by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Point(NamedTuple):
    """A value of a metric as it was logged; `time` in seconds since 1970."""

    step: int
    time: float
    value: float


def by_epoch(points: Iterable[Point], *, counted: bool = False) -> dict[int, Point]:
    """Return the values of one metric by epoch, ascending.

    Scripts count as they like. Where they log without a step (MLflow then writes 0), or their steps are to be
    `counted` as they are no epochs, the values are numbered in the order of their times. Otherwise a step is
    an epoch, counted from 0 if the first one is 0; of several values at one step the last one counts.

    >>> list(by_epoch([Point(0, 1.0, 0.5), Point(1, 2.0, 0.6)]))
    [1, 2]
    >>> list(by_epoch([Point(5, 1.0, 0.5), Point(10, 2.0, 0.6)]))
    [5, 10]
    >>> list(by_epoch([Point(0, 1.0, 0.5), Point(0, 2.0, 0.6), Point(0, 3.0, 0.7)]))
    [1, 2, 3]
    >>> list(by_epoch([Point(49, 1.0, 0.5), Point(99, 2.0, 0.6)], counted=True))
    [1, 2]
    """
    in_time = sorted(points, key=lambda point: point.time)
    if counted or all(point.step == 0 for point in in_time):
        return dict(enumerate(in_time, 1))
    by_step = {point.step: point for point in in_time}
    first = 1 if min(by_step) == 0 else 0
    return {step + first: by_step[step] for step in sorted(by_step) if step + first > 0}


def as_told(points: Iterable[Point], reached: int, *, counted: bool = False) -> dict[int, Point]:
    """Return the values of one metric as they were told to the search, for a trial that came to an epoch.

    Args:
        points: what its script has logged.
        reached: the furthest epoch that was told; 0 if that is not known.
        counted: as for `by_epoch`.

    >>> as_told([Point(0, 1.0, 0.5)], 9)
    {9: Point(step=0, time=1.0, value=0.5)}
    >>> list(as_told([Point(0, 1.0, 0.5), Point(1, 2.0, 0.6)], 9))
    [1, 2, 9]
    """
    points = list(points)
    if may_be_final(points) and reached:
        return {reached: points[0]}
    told = by_epoch(points, counted=counted)
    if told and (last := max(told)) < reached:  # it ended by itself: its last value counted for the rest
        told[reached] = told[last]
    return told


def may_be_final(points: Iterable[Point]) -> bool:
    """Whether these may be all that a script logs of a metric, once, at its end: nothing tells an epoch."""
    steps = [point.step for point in points]
    return steps == [0]
