"""Rungs: the epochs at which halving schedulers compare trials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mlflow_hpo.checks import finite_number


def reduction_factor(eta: Any) -> float:
    """Return `eta` if it is a number above 1, else raise `ConfigError` for the field ``eta``."""
    return finite_number("eta", eta, above=1)


def rung_levels(min_resource: int, max_resource: int, eta: float) -> tuple[int, ...]:
    """Return the epochs ``min_resource * eta**k`` below `max_resource`, rounded, then `max_resource` itself.

    Where ``max_resource / min_resource`` is no power of `eta` the last step is shorter than the others.

    >>> rung_levels(1, 27, 3)
    (1, 3, 9, 27)
    >>> rung_levels(2, 50, 3)
    (2, 6, 18, 50)
    """
    levels: list[int] = []
    exact = float(min_resource)
    while round(exact) < max_resource:
        if not levels or round(exact) > levels[-1]:
            levels.append(round(exact))
        exact *= eta
    return (*levels, max_resource)


def promotions(entrants: int, eta: float) -> int:
    """Return how many of the entrants of a rung go on: ``floor(entrants / eta)``."""
    return int(entrants // eta)


def halving_resource(levels: Sequence[int], eta: float, trials: float) -> float:
    """Return the epochs that `trials` trials take if one in `eta` goes on at each of `levels`.

    >>> halving_resource((1, 3, 9, 27), 3, 27)
    81.0
    """
    steps = [levels[0], *(upper - lower for lower, upper in pairwise(levels))]
    return float(sum(trials * step / eta**rung for rung, step in enumerate(steps)))
