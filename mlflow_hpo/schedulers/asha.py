"""ASHA: successive halving that never waits for a rung to fill."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from typing import Any

from mlflow_hpo.schedulers.base import Assignment, Decision, Scheduler
from mlflow_hpo.schedulers.rungs import halving_resource, promotions, reduction_factor, rung_levels


class _Rung:
    """All trials that ended at one rung."""

    def __init__(self) -> None:
        self.losses: list[tuple[float, int]] = []  # (loss, trial) of all, ascending
        self.waiting: list[tuple[float, int]] = []  # heap of those with a finite loss, not promoted so far

    def add(self, loss: float, trial_id: int) -> None:
        insort(self.losses, (loss, trial_id))
        if loss < math.inf:
            heapq.heappush(self.waiting, (loss, trial_id))

    def promotable(self, eta: float) -> bool:
        """Whether the best waiting trial is among the best ``floor(n / eta)`` of all."""
        best = promotions(len(self.losses), eta)
        return bool(self.waiting) and bisect_left(self.losses, self.waiting[0]) < best


class AshaScheduler(Scheduler):
    """Asynchronous successive halving in its promotion form.

    Whenever a worker is free, the rungs are searched from the top down for a trial that is among the best
    ``floor(n / eta)`` of the `n` trials that ended there so far and has not been promoted; if there is none,
    a new trial starts at the first rung. Failed trials and infinite losses count towards `n` and are never
    promoted.

    Paused trials may be promoted as long as others run, so they are eliminated together when no new trial
    will start, none runs and none can be promoted. Fewer than `eta` trials thus end at the first rung.

    A trial is compared by the last loss that it reported in the job that ended at the rung, normally the one
    at the rung's epoch; ``+inf`` if there is none.

    Args:
        min_resource, max_resource: epochs of the first and of the last rung; the rungs between are
            ``min_resource * eta**k``. If ``max_resource / min_resource`` is no power of `eta`, the last step
            is shorter.
        eta: reduction factor, above 1.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, Algorithm 2.
    """

    def __init__(self, min_resource: int, max_resource: int, *, eta: Any = 3) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.eta = reduction_factor(eta)
        self.levels = rung_levels(min_resource, max_resource, self.eta)
        self.eliminated = []
        self._rungs = [_Rung() for _ in self.levels[:-1]]  # nothing is compared at the last
        self._running: dict[int, tuple[int, float]] = {}  # trial -> its rung, the last loss of its job
        self._paused: dict[int, None] = {}  # a set that keeps its order
        self._closed = False

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out a promotion from the highest rung that has one, else the new trial."""
        rung = self._promotable_rung()
        if rung is not None:
            _, trial_id = heapq.heappop(self._rungs[rung].waiting)
            del self._paused[trial_id]
            return self._start(trial_id, rung + 1)
        return None if new_trial_id is None else self._start(new_trial_id, 0)

    def _promotable_rung(self) -> int | None:
        for rung in reversed(range(len(self._rungs))):
            if self._rungs[rung].promotable(self.eta):
                return rung
        return None

    def _start(self, trial_id: int, rung: int) -> Assignment:
        self._running[trial_id] = (rung, math.inf)
        return Assignment(trial_id, self.levels[rung - 1] if rung else 0, self.levels[rung], 0, rung)

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Remember the loss."""
        rung, _ = self._running[trial_id]
        self._running[trial_id] = (rung, loss)
        return Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Rank the trial at its rung; it waits for its promotion."""
        rung, loss = self._running.pop(trial_id)
        if rung < len(self._rungs):
            self._rungs[rung].add(loss, trial_id)
            self._paused[trial_id] = None
        self._eliminate()

    def fail(self, trial_id: int) -> None:
        """Count the trial at its rung."""
        rung, _ = self._running.pop(trial_id)
        if rung < len(self._rungs):
            self._rungs[rung].add(math.inf, trial_id)
        self._eliminate()

    def close(self) -> None:
        """Stop waiting for new trials."""
        self._closed = True
        self._eliminate()

    def _eliminate(self) -> None:
        """Eliminate all paused trials once nothing can change any more."""
        if self._closed and not self._running and not self.has_work:
            self.eliminated.extend(self._paused)
            self._paused.clear()

    @property
    def has_work(self) -> bool:
        """Whether a trial can be promoted now."""
        return self._promotable_rung() is not None

    def expected_resource(self, trials: int) -> float:
        """Return about how many epochs `trials` trials take in all."""
        return halving_resource(self.levels, self.eta, trials)
