"""ASHA: successive halving that never waits for a rung to fill."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from typing import Any

from mlflow_hpo.schedulers.base import Assignment, Decision, Scheduler
from mlflow_hpo.schedulers.rungs import promotions, reduction_factor, rung_levels
from mlflow_hpo.schedulers.shares import BracketShares


class _Rung:
    """All trials that ended at one rung."""

    def __init__(self) -> None:
        self.losses: list[tuple[float, int]] = []  # (loss, trial) of all, ascending
        self.waiting: list[tuple[float, int]] = []  # heap of those with a finite loss, not promoted so far
        self._given_up: list[tuple[float, int]] = []  # likewise, but these wait no more

    def count(self, loss: float, trial_id: int) -> None:
        """Rank a trial that never goes on."""
        insort(self.losses, (loss, trial_id))

    def add(self, loss: float, trial_id: int) -> None:
        """Rank a trial that waits for its promotion."""
        self.count(loss, trial_id)
        if loss < math.inf:
            heapq.heappush(self.waiting, (loss, trial_id))

    def withdraw(self, trial_id: int) -> bool:
        """Take a trial out that waits, or was given up; return whether it was there."""
        for group in (self.waiting, self._given_up):
            for place, (_, each) in enumerate(group):
                if each == trial_id:
                    del group[place]
                    heapq.heapify(group)
                    return True
        return False

    def give_up(self) -> None:
        """Let nobody wait any more."""
        self._given_up += self.waiting
        self.waiting = []

    def promotable(self, eta: float) -> bool:
        """Whether the best waiting trial is among the best ``floor(n / eta)`` of all."""
        best = promotions(len(self.losses), eta)
        return bool(self.waiting) and bisect_left(self.losses, self.waiting[0]) < best


class AshaScheduler(Scheduler):
    """Asynchronous successive halving in its promotion form.

    Whenever a worker is free, the rungs are searched from the top down for a trial that is among the best
    ``floor(n / eta)`` of the `n` trials that ended there so far and has not been promoted; if there is none,
    a new trial starts. Failed trials and infinite losses count towards `n` and are never promoted.

    With more than one bracket this is asynchronous Hyperband: bracket `b` begins at the rung `b` and compares
    its own trials only, and new trials are dealt out as `BracketShares` tells. Of rungs at the same epoch the
    lower bracket is searched first.

    Paused trials may be promoted as long as others run. When no new trial will start, none runs and none can
    be promoted, the best of the highest rung goes on all the same, unless a trial went to `max_resource`
    before: a search ends with one fully trained trial, as synchronous halving does, however few trials it
    has. (The paper searches without end and has no such rule.) Then all that wait are eliminated together.

    A trial is compared by the last loss that it reported in the job that ended at the rung, normally the one
    at the rung's epoch; ``+inf`` if there is none.

    Args:
        min_resource, max_resource: epochs of the first and of the last rung; the rungs between are
            ``min_resource * eta**k``. If ``max_resource / min_resource`` is no power of `eta`, the last step
            is shorter.
        eta: reduction factor, above 1.
        brackets: how many brackets, at most as many as there are rungs.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, Algorithm 2.
    """

    def __init__(self, min_resource: int, max_resource: int, *, eta: Any = 3, brackets: Any = 1) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.eta = reduction_factor(eta)
        self.levels = rung_levels(min_resource, max_resource, self.eta)
        self.eliminated = []
        self._shares = BracketShares(brackets, len(self.levels), self.eta)
        # rungs by bracket and level; nothing is compared at the last level
        self._rungs = {
            (bracket, level): _Rung()
            for level in reversed(range(len(self.levels) - 1))
            for bracket in range(min(level + 1, self._shares.brackets))
        }
        self._running: dict[int, tuple[int, int, float]] = {}  # trial -> its bracket, level, last loss
        self._paused: dict[int, None] = {}  # a set that keeps its order
        self._closed = False
        self._reached_the_end = False  # whether a trial was handed out up to max_resource

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out a promotion from the highest rung that has one, else the new trial."""
        place = self._promotable()
        if place is not None:
            bracket, level = place
            _, trial_id = heapq.heappop(self._rungs[place].waiting)
            del self._paused[trial_id]
            return self._start(trial_id, bracket, level + 1)
        if new_trial_id is None:
            return None
        bracket = self._shares.next()
        return self._start(new_trial_id, bracket, bracket)

    def _promotable(self) -> tuple[int, int] | None:
        """Return the bracket and level of the rung to promote from, if there is one."""
        for place, rung in self._rungs.items():
            if rung.promotable(self.eta):
                return place
        if self._closed and not self._running and not self._reached_the_end:
            return next((place for place, rung in self._rungs.items() if rung.waiting), None)
        return None

    def promote(self, trial_id: int) -> Assignment | None:
        """Hand out a trial that waits at a rung, whatever its rank."""
        for (bracket, level), rung in self._rungs.items():
            if rung.withdraw(trial_id):
                self._paused.pop(trial_id, None)
                return self._start(trial_id, bracket, level + 1)
        return None

    def _start(self, trial_id: int, bracket: int, level: int) -> Assignment:
        self._running[trial_id] = (bracket, level, math.inf)
        self._reached_the_end |= level == len(self.levels) - 1
        start = self.levels[level - 1] if level > bracket else 0
        return Assignment(trial_id, start, self.levels[level], bracket, level - bracket)

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Remember the loss."""
        bracket, level, _ = self._running[trial_id]
        self._running[trial_id] = (bracket, level, loss)
        return Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Rank the trial at its rung; it waits for its promotion."""
        bracket, level, loss = self._running.pop(trial_id)
        if (bracket, level) in self._rungs:
            self._rungs[bracket, level].add(loss, trial_id)
            self._paused[trial_id] = None
        self._eliminate()

    def retire(self, trial_id: int) -> None:
        """Rank the trial at its rung, where it stays."""
        bracket, level, loss = self._running.pop(trial_id)
        if (bracket, level) in self._rungs:
            self._rungs[bracket, level].count(loss, trial_id)
        self._eliminate()

    def fail(self, trial_id: int) -> None:
        """Count the trial at its rung."""
        bracket, level, _ = self._running.pop(trial_id)
        if (bracket, level) in self._rungs:
            self._rungs[bracket, level].count(math.inf, trial_id)
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
            for rung in self._rungs.values():
                rung.give_up()

    @property
    def has_work(self) -> bool:
        """Whether a trial can be promoted now."""
        return self._promotable() is not None

    def expected_resource(self, trials: int) -> float:
        """Return about how many epochs `trials` trials take in all."""
        return self._shares.resource(self.levels, trials)
