"""Values as they were logged, made of those that MLflow's stores give back."""

from __future__ import annotations

import math

_INFINITE = 1.797e308  # and beyond: how MLflow's databases store infinity


def logged_value(value: float) -> float:
    """Return a value as it was before MLflow stored it.

    >>> logged_value(-1.7976931348623157e308), logged_value(0.5)
    (-inf, 0.5)
    """
    return value if abs(value) < _INFINITE or math.isnan(value) else math.copysign(math.inf, value)
