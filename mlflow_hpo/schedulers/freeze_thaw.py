"""Freeze and thaw: whoever models the learning curves says which paused trial goes on."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import Any

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers.base import Adviser, Assignment, Decision, Scheduler
from mlflow_hpo.schedulers.rungs import halving_resource, reduction_factor, rung_levels

_SLACK = 2.0  # times the epochs of successive halving may be taken


class FreezeThawScheduler(Scheduler):
    """Pauses every trial at each level and goes on with the one that the searcher's model promises most of.

    Whenever a worker is free, the searcher is asked whether one of the paused trials, and which one, promises
    more than a new trial. Trials without a finite loss never go on.

    Whatever the model says, no trial goes to a level for which more epochs were handed out than for all later
    ones together and a full training, unless there is nothing else to do: a model that errs about what early
    epochs tell does not keep all trials short.

    A new trial starts without asking once the trials so far have taken a full training more than twice the
    epochs of successive halving with the same number of trials, `eta` and levels: a bound on the trials thus
    bounds the epochs. Trials that the searcher gives up are eliminated at once, and what they took is not
    counted. When no new trial will start, the search goes on until it has taken as many epochs as
    successive halving would have and one trial is fully trained. Then all that are paused are eliminated.

    Args:
        min_resource, max_resource: epochs of the first and of the last level; those between are
            ``min_resource * eta**k``. If ``max_resource / min_resource`` is no power of `eta`, the last step
            is shorter.
        eta: reduction factor, above 1. As nothing is decided by rank alone, levels may lie closer together
            than the rungs of successive halving.

    Source: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014.
    """

    def __init__(self, min_resource: int, max_resource: int, *, eta: Any = 2) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.eta = reduction_factor(eta)
        self.levels = rung_levels(min_resource, max_resource, self.eta)
        self.eliminated = []
        self._adviser: Adviser | None = None
        # (loss, trial) of the paused trials that may go on, ascending, by level; nothing follows the last
        self._waiting: list[list[tuple[float, int]]] = [[] for _ in self.levels[:-1]]
        self._paused: dict[int, None] = {}  # a set that keeps its order
        self._level: dict[int, int] = {}  # trial that counts -> the last that it was trained to
        self._running: dict[int, int] = {}  # trial -> level
        self._losses: dict[int, float] = {}  # the last of each trial
        self._started = 0
        self._handed_out = [0] * len(self.levels)  # epochs on the way to each level
        self._trained = [0] * len(self.levels)  # of these, what does not run any more
        self._closed = False
        self._reached_the_end = False  # whether a trial was handed out up to max_resource

    def consult(self, adviser: object) -> None:
        """Take the searcher that models learning curves."""
        if not isinstance(adviser, Adviser):
            raise ConfigError(
                "scheduler",
                "freeze_thaw must have a searcher that models learning curves, such as freeze_thaw, "
                f"got {type(adviser).__name__}",
            )
        self._adviser = adviser

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out the paused trial that the model promises most of, or the new one."""
        if new_trial_id is None and not self.has_work:
            return None
        ahead = new_trial_id is not None and sum(self._handed_out) > self._most_epochs
        trial_id = None if ahead else self._advice(may_start=new_trial_id is not None)
        if trial_id is not None:
            return self.promote(trial_id)
        if new_trial_id is None:
            return None
        self._started += 1
        self._losses[new_trial_id] = math.inf
        return self._start(new_trial_id, 0)

    @property
    def _most_epochs(self) -> float:
        """How many epochs the trials so far may have taken before a new one must start."""
        return _SLACK * self.expected_resource(self._started) + self.max_resource

    def _advice(self, *, may_start: bool) -> int | None:
        if self._adviser is None or not any(self._waiting):
            return None
        levels = [level for level, waiting in enumerate(self._waiting) if waiting]
        due = [level for level in levels if not self._overdrawn(level + 1)] or levels
        paused = {self.levels[level]: self._waiting[level] for level in due}
        return self._adviser.advise(paused, may_start=may_start and not self._overdrawn(0))

    def _overdrawn(self, level: int) -> bool:
        """Whether later levels must catch up before a trial is trained up to this one."""
        later = self._handed_out[level + 1 :]
        return bool(later) and self._trained[level] > sum(later) + self.max_resource

    def promote(self, trial_id: int) -> Assignment | None:
        """Hand out a trial that waits at a level, whatever the model promises of it."""
        key = self._losses.get(trial_id, math.inf), trial_id
        for level, waiting in enumerate(self._waiting):
            place = bisect_left(waiting, key)
            if place < len(waiting) and waiting[place] == key:
                del waiting[place]
                self._paused.pop(trial_id, None)
                return self._start(trial_id, level + 1)
        return None

    def _start(self, trial_id: int, level: int) -> Assignment:
        self._running[trial_id] = level
        self._reached_the_end |= level == len(self.levels) - 1
        start = self.levels[level - 1] if level else 0
        self._handed_out[level] += self._epochs_to(level)
        return Assignment(trial_id, start, self.levels[level], rung=level)

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Remember the loss."""
        self._losses[trial_id] = loss
        self._drop_given_up()
        return Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Pause the trial."""
        level = self._end(trial_id)
        if level < len(self._waiting):
            self._paused[trial_id] = None
            if self._losses[trial_id] < math.inf:
                insort(self._waiting[level], (self._losses[trial_id], trial_id))
        self._drop_given_up()
        self._eliminate()

    def fail(self, trial_id: int) -> None:
        """Forget the trial."""
        self._end(trial_id)
        self._eliminate()

    def _end(self, trial_id: int) -> int:
        level = self._level[trial_id] = self._running.pop(trial_id)
        self._trained[level] += self._epochs_to(level)
        return level

    def _epochs_to(self, level: int) -> int:
        """Return how many epochs a trial takes from the level before to this one."""
        return self.levels[level] - (self.levels[level - 1] if level else 0)

    def _drop_given_up(self) -> None:
        """Eliminate the trials that the searcher gave up, as if they had never been."""
        given_up = () if self._adviser is None else self._adviser.given_up
        for trial_id in sorted((self._level.keys() & given_up) - self._running.keys()):
            reached = self._level.pop(trial_id)
            self._started -= 1
            for level in range(reached + 1):
                self._handed_out[level] -= self._epochs_to(level)
                self._trained[level] -= self._epochs_to(level)
            if trial_id in self._paused:
                del self._paused[trial_id]
                self.eliminated.append(trial_id)
                key = self._losses[trial_id], trial_id
                self._waiting[reached] = [each for each in self._waiting[reached] if each != key]

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
        """Whether a paused trial may go on."""
        if not any(self._waiting):
            return False
        used_up = sum(self._handed_out) >= self.expected_resource(self._started)
        return not (self._closed and used_up and self._reached_the_end)

    def expected_resource(self, trials: int) -> float:
        """Return about how many epochs `trials` trials take in all: as many as with successive halving."""
        return halving_resource(self.levels, self.eta, trials)
