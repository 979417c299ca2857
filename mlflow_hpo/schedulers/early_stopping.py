"""Early stopping by a trial's own curve: a plateau, or divergence; around any scheduler."""

from __future__ import annotations

import math
from typing import Any

from mlflow_hpo.checks import finite_number, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers.base import Assignment, Decision, Scheduler


class EarlyStopping(Scheduler):
    """Stops trials by their own curves, whatever they would get from another scheduler.

    A trial is stopped for good

    - at a plateau: after `patience` reports in a row of which none improved the trial's best loss by more
      than `min_delta`, but not before `min_resource`;
    - when it diverges: at a loss that is not finite, or is above `divergence` times the magnitude of the
      first finite loss of the trial (a first loss of 0 compares nothing).

    A report that breaks a constraint counts here with the loss that it has: being infeasible is neither a
    plateau nor divergence, and a trial may become feasible later. The other scheduler ranks it last.

    Nothing is stopped at `max_resource`, where training ends anyway. The other scheduler decides about all
    other trials as ever; it counts a stopped one with its last loss (`Scheduler.retire`).

    Args:
        scheduler: the scheduler around which this is.
        patience: reports without an improvement; None for no end at a plateau.
        min_delta: what counts as an improvement, in units of the metric.
        divergence: factor above 1; None for no end at divergence.

    Source: Prechelt, Early Stopping - But When?, in Neural Networks: Tricks of the Trade, 1998 (there UP).
    """

    def __init__(
        self, scheduler: Scheduler, *, patience: Any = None, min_delta: Any = 0.0, divergence: Any = None
    ) -> None:
        if patience is None and divergence is None:
            raise ConfigError("", "must set patience or divergence")
        self._inner = scheduler
        self._patience = None if patience is None else whole_number("patience", patience, at_least=1)
        self._min_delta = finite_number("min_delta", min_delta, at_least=0)
        self._divergence = None if divergence is None else finite_number("divergence", divergence, above=1)
        self.min_resource = scheduler.min_resource
        self.max_resource = scheduler.max_resource
        self.levels = scheduler.levels
        self.eliminated = scheduler.eliminated
        self._first: dict[int, float] = {}  # first finite loss
        self._best: dict[int, float] = {}  # the loss that is to be improved
        self._waited: dict[int, int] = {}  # reports since
        self._stopped: set[int] = set()  # running trials that were told to stop by this

    def consult(self, adviser: object) -> None:
        """Tell the scheduler."""
        self._inner.consult(adviser)

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out what the scheduler does."""
        return self._inner.next(new_trial_id)

    def promote(self, trial_id: int) -> Assignment | None:
        """Hand out what the scheduler does."""
        return self._inner.promote(trial_id)

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Tell the scheduler, then look at the trial's own curve."""
        decision = self._inner.report(trial_id, resource, loss)
        return self._or_stop(decision, trial_id, resource, loss)

    def report_infeasible(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Tell the scheduler, then look at the trial's own curve, in which `loss` is like any other."""
        decision = self._inner.report_infeasible(trial_id, resource, loss)
        return self._or_stop(decision, trial_id, resource, loss)

    def _or_stop(self, decision: Decision, trial_id: int, resource: int, loss: float) -> Decision:
        """Return the scheduler's decision, or STOP if the trial's own curve demands it."""
        if decision is Decision.STOP:
            return Decision.STOP
        plateau = self._plateau(trial_id, loss) and resource >= self.min_resource
        if (plateau or self._diverged(trial_id, loss)) and resource < self.max_resource:
            self._stopped.add(trial_id)
            return Decision.STOP
        return Decision.CONTINUE

    def _plateau(self, trial_id: int, loss: float) -> bool:
        if self._patience is None:
            return False
        if loss < self._best.get(trial_id, math.inf) - self._min_delta:
            self._best[trial_id] = loss
            self._waited[trial_id] = 0
            return False
        self._waited[trial_id] = self._waited.get(trial_id, 0) + 1
        return self._waited[trial_id] >= self._patience

    def _diverged(self, trial_id: int, loss: float) -> bool:
        if self._divergence is None:
            return False
        if loss == math.inf:
            return True
        first = abs(self._first.setdefault(trial_id, loss))
        return first > 0 and loss > self._divergence * first

    def complete(self, trial_id: int) -> None:
        """End the assignment; a trial that was stopped here never goes on."""
        if trial_id in self._stopped:
            self._stopped.remove(trial_id)
            self._inner.retire(trial_id)
        else:
            self._inner.complete(trial_id)

    def retire(self, trial_id: int) -> None:
        """Tell the scheduler."""
        self._stopped.discard(trial_id)
        self._inner.retire(trial_id)

    def fail(self, trial_id: int) -> None:
        """Tell the scheduler."""
        self._stopped.discard(trial_id)
        self._inner.fail(trial_id)

    def close(self) -> None:
        """Tell the scheduler."""
        self._inner.close()

    @property
    def has_work(self) -> bool:
        """Whether the scheduler has."""
        return self._inner.has_work

    def expected_resource(self, trials: int) -> float:
        """Return what the scheduler expects, which is too much where trials stop early."""
        return self._inner.expected_resource(trials)
