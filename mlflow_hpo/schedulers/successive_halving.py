"""Successive halving: whole rungs are compared, the best of each go on."""

from __future__ import annotations

import math
from typing import Any

from mlflow_hpo.checks import whole_number
from mlflow_hpo.schedulers.brackets import BracketPlan, BracketScheduler
from mlflow_hpo.schedulers.rungs import reduction_factor, rung_levels


class SuccessiveHalvingScheduler(BracketScheduler):
    """Synchronous successive halving, one bracket after the other, all of them alike.

    A bracket trains `bracket_size` trials to the first rung. When all of them have ended, the best
    ``floor(n / eta)`` (at least one) go on to the next rung and the others are eliminated; and so on up to
    `max_resource`. `BracketScheduler` tells the rest.

    Args:
        min_resource, max_resource: epochs of the first and of the last rung; the rungs between are
            ``min_resource * eta**k``. If ``max_resource / min_resource`` is no power of `eta`, the last step
            is shorter.
        eta: reduction factor, above 1.
        bracket_size: trials that a bracket starts with; by default ``eta**s`` with `s` promotions up to
            the last rung, which leaves one trial there.

    Source: Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
    AISTATS 2016; rungs as in Li et al., Hyperband, JMLR 18 (2018), Algorithm 1.
    """

    def __init__(
        self, min_resource: int, max_resource: int, *, eta: Any = 3, bracket_size: Any = None
    ) -> None:
        eta = reduction_factor(eta)
        levels = rung_levels(min_resource, max_resource, eta)
        if bracket_size is None:
            bracket_size = math.ceil(eta ** (len(levels) - 1))
        self.bracket_size = whole_number("bracket_size", bracket_size, at_least=1)
        super().__init__(min_resource, max_resource, eta, [BracketPlan(levels, self.bracket_size)])
