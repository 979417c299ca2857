"""Shares: how many of the new trials each of several asynchronous brackets gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_hpo.checks import whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.schedulers.rungs import halving_resource


class BracketShares:
    """Deals new trials out to brackets as Hyperband does, without chance.

    Bracket 0 begins at the first rung, each further one a rung later. A bracket with `s` promotions gets a
    share in proportion to ``eta**s / (s + 1)``, as in Hyperband, so that all brackets take about the same
    resource. Each trial goes to the bracket that is furthest behind its share, the lowest one where they
    tie.

    Args:
        brackets: how many; not more than there are rungs.
        rungs: rungs of bracket 0.
        eta: reduction factor.

    >>> shares = BracketShares(2, rungs=3, eta=3)
    >>> [shares.next() for _ in range(9)]
    [0, 1, 0, 0, 1, 0, 0, 1, 0]
    """

    def __init__(self, brackets: Any, rungs: int, eta: float) -> None:
        self.brackets = whole_number("brackets", brackets, at_least=1)
        if self.brackets > rungs:
            raise ConfigError("brackets", f"must be at most {rungs}, the number of rungs, got {brackets}")
        weights = [eta**s / (s + 1) for s in range(rungs - 1, rungs - 1 - self.brackets, -1)]
        self._eta = eta
        self._shares = [weight / sum(weights) for weight in weights]
        self._dealt = [0] * self.brackets

    def next(self) -> int:
        """Return the bracket of the next trial."""
        due = sum(self._dealt) + 1
        bracket = max(range(self.brackets), key=lambda b: self._shares[b] * due - self._dealt[b])
        self._dealt[bracket] += 1
        return bracket

    def resource(self, levels: Sequence[int], trials: int) -> float:
        """Return about how many epochs `trials` trials take in all; `levels` are the rungs of bracket 0."""
        return sum(
            halving_resource(levels[bracket:], self._eta, share * trials)
            for bracket, share in enumerate(self._shares)
        )
