"""First trials: configurations that are tried before the searcher proposes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from mlflow_hpo.space import Config

_COMPARED = 3  # so many of what earlier tasks taught with as many of the searcher's own


class FirstTrials:
    """Hands out given configurations, then what earlier tasks taught as long as that is no worse than others.

    After 3 configurations that earlier tasks taught the searcher proposes. The others follow once 3 of its
    proposals, too, have a loss at the first level (infinite for a trial that ended without one) and the least
    of these is not below that of the first 3. If it is, the history misleads, and they are dropped.

    Args:
        given: to be tried first, whatever comes of them.
        taught: what was good on earlier tasks, the best first.
        level: the epochs of the first level.

    Attributes:
        misled: whether the losses have contradicted what earlier tasks taught.
    """

    def __init__(self, given: Iterable[Config], taught: Iterable[Config], level: int) -> None:
        self._given = deque(given)
        self._taught = deque(taught)
        self._level = level
        # at the first level, by trial: of the first 3 that were taught, then of 3 that the searcher proposed
        self._losses: dict[int, float | None] = {}
        self.misled = False

    def __len__(self) -> int:
        return len(self._given) + len(self._taught)

    def take(self, trial_id: int, *, must: bool) -> Config | None:
        """Return the configuration of a new trial; None where the searcher is to propose it.

        Args:
            trial_id: the trial.
            must: whether the searcher has nothing to propose.
        """
        if self._given:
            return self._given.popleft()
        if not self._taught:
            return None
        if len(self._losses) < _COMPARED:
            self._losses[trial_id] = None
        elif not must and len(self._known) < 2 * _COMPARED:
            if len(self._losses) < 2 * _COMPARED:
                self._losses[trial_id] = None
            return None
        return self._taught.popleft()

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Take the loss of a running trial."""
        if resource >= self._level:
            self._note(trial_id, loss)

    def end(self, trial_id: int) -> None:
        """A trial ended: what has no loss by now counts as the worst."""
        self._note(trial_id, math.inf)

    def _note(self, trial_id: int, loss: float) -> None:
        if trial_id in self._losses and self._losses[trial_id] is None:
            self._losses[trial_id] = loss
            self._compare()

    def _compare(self) -> None:
        taught, own = self._known[:_COMPARED], self._known[_COMPARED:]
        if self._taught and len(own) == _COMPARED and min(own) < min(taught):
            self.misled = True
            self._taught.clear()

    @property
    def _known(self) -> list[float]:
        return [loss for loss in self._losses.values() if loss is not None]
