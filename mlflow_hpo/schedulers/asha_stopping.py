"""ASHA in its stopping form: trials run on until a rung stops them."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import Any

from mlflow_hpo.schedulers.base import Decision
from mlflow_hpo.schedulers.rungs import promotions, reduction_factor, rung_levels
from mlflow_hpo.schedulers.shares import BracketShares
from mlflow_hpo.schedulers.stopping import StoppingScheduler


class AshaStoppingScheduler(StoppingScheduler):
    """Asynchronous successive halving in its stopping form: no trial is paused, so no checkpoint is needed.

    A trial that reports at a rung is ranked among the `n` trials that did so before it and itself. It goes on
    if it is among the best ``max(1, floor(n / eta))``, and is stopped for good otherwise, as it is if its
    loss is infinite. The first trials of a rung thus go on more easily than later ones: this form spends
    more on them than the promotion form, and gets to full trainings sooner. A failed trial counts as the
    worst of the rung that it was on its way to.

    The first report at or behind the epoch of a rung counts there; one that is behind several rungs counts
    at each of them. Nothing is stopped at `max_resource`: a trial that is first compared there is trained in
    full, and what it reports counts at all rungs of its bracket that it has not been compared at.

    With more than one bracket this is the stopping form of asynchronous Hyperband: bracket `b` begins at the
    rung `b` and compares its own trials only, and new trials are dealt out as `BracketShares` tells.

    Args:
        min_resource, max_resource: epochs of the first rung, before which nothing is stopped (the grace
            period), and of a full training; the rungs between are ``min_resource * eta**k``.
        eta: reduction factor, above 1.
        brackets: how many brackets, at most as many as there are rungs.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, for the rungs;
    stopping as in Klein et al., Model-based Asynchronous Hyperparameter and Neural Architecture Search, 2020
    (arXiv 2003.10865). Ray Tune and Syne Tune compare with an interpolated quantile; here it is the floor,
    as in promotion.
    """

    def __init__(self, min_resource: int, max_resource: int, *, eta: Any = 3, brackets: Any = 1) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.eta = reduction_factor(eta)
        self.levels = rung_levels(min_resource, max_resource, self.eta)
        self.eliminated = []
        self._shares = BracketShares(brackets, len(self.levels), self.eta)
        # (loss, trial) of all that were compared at a rung, ascending, by bracket and level
        self._rungs: dict[tuple[int, int], list[tuple[float, int]]] = {
            (bracket, level): []
            for bracket in range(self._shares.brackets)
            for level in range(bracket, len(self.levels) - 1)
        }
        # trial -> its bracket, the level it is on its way to, its last loss
        self._running: dict[int, tuple[int, int, float]] = {}

    def _begin(self, trial_id: int) -> int:
        bracket = self._shares.next()
        self._running[trial_id] = (bracket, bracket, math.inf)
        return bracket

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Compare the trial at the rungs that it has reached."""
        bracket, level, _ = self._running[trial_id]
        goes_on, whole = True, resource >= self.max_resource
        while (goes_on or whole) and (bracket, level) in self._rungs and resource >= self.levels[level]:
            rung = self._rungs[bracket, level]
            insort(rung, (loss, trial_id))
            level += 1
            best = max(1, promotions(len(rung), self.eta))
            goes_on = loss < math.inf and bisect_left(rung, (loss, trial_id)) < best
        self._running[trial_id] = (bracket, level, loss)
        return Decision.CONTINUE if goes_on or whole else Decision.STOP

    def complete(self, trial_id: int) -> None:
        """Forget the trial; what it did at the rungs stays."""
        del self._running[trial_id]

    def retire(self, trial_id: int) -> None:
        """Count the trial with its last loss at the rung that it was on its way to."""
        self._count(trial_id, self._running[trial_id][2])

    def fail(self, trial_id: int) -> None:
        """Count the trial as the worst of the rung that it was on its way to."""
        self._count(trial_id, math.inf)

    def _count(self, trial_id: int, loss: float) -> None:
        bracket, level, _ = self._running.pop(trial_id)
        if (bracket, level) in self._rungs:
            insort(self._rungs[bracket, level], (loss, trial_id))

    def expected_resource(self, trials: int) -> float:
        """Return about how many epochs `trials` trials take in all."""
        return self._shares.resource(self.levels, trials)
