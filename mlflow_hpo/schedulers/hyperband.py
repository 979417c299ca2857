"""Hyperband: brackets that trade many short trainings for few long ones."""

from __future__ import annotations

import math
from typing import Any

from mlflow_hpo.schedulers.brackets import BracketPlan, BracketScheduler
from mlflow_hpo.schedulers.rungs import reduction_factor

_ROUNDING = 1e-9  # relative: what a power or quotient of floats may be off


def hyperband_brackets(min_resource: int, max_resource: int, eta: float) -> tuple[BracketPlan, ...]:
    """Return the brackets of Hyperband, from the one with most promotions to plain full training.

    With `R` = `max_resource` the rungs are at ``R * eta**-s``, rounded to whole epochs, for ``s = 0, 1, ...``
    as long as they are at least `min_resource`; rungs that round to the same epoch are one. The bracket with
    `s` promotions starts with ``ceil((s_max + 1) / (s + 1) * eta**s)`` trials, where `s_max` is the most
    promotions.

    >>> for plan in hyperband_brackets(1, 81, 3):
    ...     print(plan.trials, plan.levels)
    81 (1, 3, 9, 27, 81)
    34 (3, 9, 27, 81)
    15 (9, 27, 81)
    8 (27, 81)
    5 (81,)
    """
    levels = [max_resource]
    # powers of eta instead of the paper's logarithm, which is a little less than 5 for log(243, 3)
    power = eta
    while min_resource * power <= max_resource * (1 + _ROUNDING):
        level = round(max_resource / power)
        if level < levels[-1]:
            levels.append(level)
        power *= eta
    s_max = len(levels) - 1
    return tuple(
        BracketPlan(
            levels=tuple(reversed(levels[: s + 1])),
            trials=math.ceil((s_max + 1) * eta**s / (s + 1) * (1 - _ROUNDING)),
        )
        for s in range(s_max, -1, -1)
    )


class HyperbandScheduler(BracketScheduler):
    """Synchronous Hyperband: brackets of successive halving with ever fewer and longer trainings.

    Bracket ``s = s_max, ..., 0`` starts ``n = ceil((s_max + 1) / (s + 1) * eta**s)`` trials at the rung
    ``r = R * eta**-s`` and promotes the best ``floor(n / eta)`` of each rung by `eta`, up to ``R =
    max_resource``. All brackets take about the same resource, so that one of them suits the task, however
    much short trainings tell. After the last bracket comes the first again, until the trials are used up.
    `BracketScheduler` tells the rest; with the searcher tpe this is BOHB.

    Where it departs from the paper: the rungs are rounded to whole epochs; a rung keeps the floor of what it
    got, which differs from the paper's ``floor(n * eta**-i)`` only if `eta` is no whole number, and one trial
    at least. The variant ``n = int((s_max + 1) / (s + 1)) * eta**s`` of other implementations starts fewer
    trials: for 81 and 3 the brackets start 81, 27, 9, 6 and 5 trials instead of 81, 34, 15, 8 and 5.

    Args:
        min_resource, max_resource: epochs that the first rung has at least, and of the last.
        eta: reduction factor, above 1.

    Source: Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, JMLR 18
    (2018), Algorithm 1 and Table 1.
    """

    def __init__(self, min_resource: int, max_resource: int, *, eta: Any = 3) -> None:
        eta = reduction_factor(eta)
        super().__init__(min_resource, max_resource, eta, hyperband_brackets(min_resource, max_resource, eta))
