"""Brackets: groups of trials whose rungs are compared as wholes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlflow_hpo.schedulers.base import Assignment, Decision, Scheduler
from mlflow_hpo.schedulers.rungs import halving_resource, promotions


@dataclass(frozen=True, slots=True)
class BracketPlan:
    """What a bracket is to be: the epochs of its rungs, ascending, and the trials that it starts with."""

    levels: tuple[int, ...]
    trials: int


@dataclass(slots=True)
class _Bracket:
    """A bracket at work, and its present rung."""

    index: int
    levels: tuple[int, ...]
    places: int
    rung: int = 0
    taken: int = 0
    ended: list[tuple[float, int]] = field(default_factory=list)  # (loss, trial)
    failed: int = 0
    retired: list[tuple[float, int]] = field(default_factory=list)  # (loss, trial)


class BracketScheduler(Scheduler):
    """Base of the schedulers that run brackets of synchronous successive halving, one after the other.

    When all trials of a rung have ended, the best ``floor(n / eta)`` (at least one) of those with a finite
    loss go on to the next rung of their bracket and the others are eliminated. Failed trials count as the
    worst of their rung. The place of a trial that was stopped on the way (`retire`) stays empty. A rung from
    which none goes on ends its bracket.

    Nobody waits for a rung: once all places of a bracket are taken, idle workers begin the next bracket;
    promotions of older brackets come first. When no new trial will start, the last bracket shrinks to the
    trials it has.

    A trial is compared by the last loss that it reported in the job that ended at the rung, normally the one
    at the rung's epoch; ``+inf`` if there is none.

    Args:
        min_resource, max_resource: as for every scheduler.
        eta: reduction factor.
        plans: the brackets in their order; after the last comes the first again.
    """

    def __init__(
        self, min_resource: int, max_resource: int, eta: float, plans: Sequence[BracketPlan]
    ) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.levels = tuple(sorted({level for plan in plans for level in plan.levels}))
        self.eta = eta
        self.plans = tuple(plans)
        self.eliminated = []
        self._open: _Bracket | None = None  # the one that has places left in its first rung
        self._brackets = 0
        self._running: dict[int, _Bracket] = {}
        self._loss: dict[int, float] = {}  # last loss of each running job
        self._promoted: list[tuple[int, int, int, _Bracket]] = []  # heap: bracket, rank, trial

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out a promotion of the oldest bracket that has one, else the new trial."""
        if self._promoted:
            _, _, trial_id, bracket = heapq.heappop(self._promoted)
            return self._start(trial_id, bracket)
        if new_trial_id is None:
            return None
        if self._open is None:
            plan = self.plans[self._brackets % len(self.plans)]
            self._open = _Bracket(self._brackets, plan.levels, plan.trials)
            self._brackets += 1
        bracket = self._open
        bracket.taken += 1
        if bracket.taken == bracket.places:
            self._open = None
        return self._start(new_trial_id, bracket)

    def _start(self, trial_id: int, bracket: _Bracket) -> Assignment:
        self._running[trial_id] = bracket
        self._loss[trial_id] = math.inf
        rung, levels = bracket.rung, bracket.levels
        return Assignment(trial_id, levels[rung - 1] if rung else 0, levels[rung], bracket.index, rung)

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Remember the loss."""
        self._loss[trial_id] = loss
        return Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Take the trial's place in its rung as ended."""
        bracket = self._running.pop(trial_id)
        bracket.ended.append((self._loss.pop(trial_id), trial_id))
        self._promote(bracket)

    def retire(self, trial_id: int) -> None:
        """Take the trial's place in its rung as ended, and leave it there."""
        bracket = self._running.pop(trial_id)
        bracket.retired.append((self._loss.pop(trial_id), trial_id))
        self._promote(bracket)

    def fail(self, trial_id: int) -> None:
        """Take the trial's place in its rung as ended, without a loss."""
        bracket = self._running.pop(trial_id)
        del self._loss[trial_id]
        bracket.failed += 1
        self._promote(bracket)

    def close(self) -> None:
        """Shrink the last bracket to the trials it has."""
        if self._open is not None:
            self._open.places = self._open.taken
            self._promote(self._open)
            self._open = None

    def _promote(self, bracket: _Bracket) -> None:
        """Decide the present rung of `bracket` if all of it has ended."""
        entrants = len(bracket.ended) + len(bracket.retired) + bracket.failed
        last = bracket.rung == len(bracket.levels) - 1
        if entrants < bracket.places or last:
            return
        ranked = sorted(bracket.ended + bracket.retired)
        retired = {trial_id for _, trial_id in bracket.retired}
        promoted = 0
        finite = sum(loss < math.inf for loss, _ in ranked)
        best = min(max(1, promotions(entrants, self.eta)), finite)
        for rank, (_, trial_id) in enumerate(ranked):
            if trial_id in retired:
                continue  # the place it may have won stays empty
            if rank < best:
                promoted += 1
                heapq.heappush(self._promoted, (bracket.index, rank, trial_id, bracket))
            else:
                self.eliminated.append(trial_id)
        bracket.rung += 1
        bracket.places = promoted
        bracket.ended, bracket.retired, bracket.failed = [], [], 0

    @property
    def has_work(self) -> bool:
        """Whether a promoted trial waits to be handed out."""
        return bool(self._promoted)

    def expected_resource(self, trials: int) -> float:
        """Return about how many epochs `trials` trials take in all."""
        rounds, left = divmod(trials, sum(plan.trials for plan in self.plans))
        total = 0.0
        for plan in self.plans:
            in_last_round = min(left, plan.trials)
            left -= in_last_round
            total += halving_resource(plan.levels, self.eta, rounds * plan.trials + in_last_round)
        return total
