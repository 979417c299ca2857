"""The median stopping rule."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from typing import Any

from mlflow_hpo.checks import whole_number
from mlflow_hpo.schedulers.base import Decision
from mlflow_hpo.schedulers.stopping import StoppingScheduler


class MedianScheduler(StoppingScheduler):
    """Stops a trial whose best loss so far is worse than the median of what others had on average.

    A trial that reports after `r` epochs is stopped if its best loss up to `r` is strictly above the median
    of the running averages of the others: the mean of all losses that each of them reported up to `r`, for
    every other trial that reported at `r` too. (In the paper those are the trials that have ended; here
    running ones count as well, so that the rule takes effect with many workers.)

    An infinite loss makes the running average of its trial infinite from there on, which ranks last; it does
    not hide a trial's best. Of an even number of averages the median is the mean of the middle two. What a
    stopped or failed trial reported keeps counting.

    Args:
        min_resource, max_resource: epochs before which nothing is stopped (the grace period), and of a full
            training.
        min_trials: others that must have reported at `r`.
        interval: epochs between two decisions: at ``min_resource + k * interval``.

    Source: Golovin et al., Google Vizier: A Service for Black-Box Optimization, KDD 2017, section 3.2.1.
    """

    def __init__(
        self, min_resource: int, max_resource: int, *, min_trials: Any = 5, interval: Any = 1
    ) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.min_trials = whole_number("min_trials", min_trials, at_least=1)
        self.interval = whole_number("interval", interval, at_least=1)
        self.levels = (*range(min_resource, max_resource, self.interval), max_resource)
        self.eliminated = []
        self._averages: dict[int, list[float]] = {}  # resource -> running averages there, ascending
        self._running: dict[int, tuple[int, float, float]] = {}  # trial -> reports, their sum, their best

    def _begin(self, trial_id: int) -> int:
        self._running[trial_id] = (0, 0.0, math.inf)
        return 0

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Compare the trial with the others if it is time to."""
        reports, total, best = self._running[trial_id]
        reports, total, best = reports + 1, total + loss, min(best, loss)
        self._running[trial_id] = (reports, total, best)
        since = resource - self.min_resource
        if since < 0 or since % self.interval or resource == self.max_resource:
            return Decision.CONTINUE
        others = self._averages.setdefault(resource, [])
        worse = len(others) >= self.min_trials and best > _median(others)
        insort(others, total / reports)
        return Decision.STOP if worse else Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Forget the trial; its running averages stay."""
        del self._running[trial_id]

    def fail(self, trial_id: int) -> None:
        """Forget the trial; its running averages stay."""
        del self._running[trial_id]


def _median(ascending: Sequence[float]) -> float:
    half = len(ascending) // 2
    return ascending[half] if len(ascending) % 2 else (ascending[half - 1] + ascending[half]) / 2
