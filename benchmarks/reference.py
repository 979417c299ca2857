"""What a task's regret is measured against: its best value, and what a random configuration brings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lcbench import Problem

_RANDOM = 1000  # configurations drawn
_SURVIVORS, _CHILDREN, _ROUNDS = 10, 10, 8  # of the search for the best around them


@dataclass(frozen=True)
class Reference:
    """`best` has the normalised regret 0 and `median`, a full training of a middling configuration, has 1.

    A configuration's value is the best of its whole curve.
    """

    best: float
    median: float

    def regret(self, value: float) -> float:
        """Return ``(best - value) / (best - median)``, at least 0."""
        return max(0.0, (self.best - value) / (self.best - self.median))


def find_reference(problem: Problem) -> Reference:
    """Draw random configurations, then search around the best ones in ever smaller steps."""
    rng = np.random.default_rng(0)
    space = problem.space

    def value(point: np.ndarray) -> float:
        return float(problem.curve(space.from_unit(list(point))).values.max())

    points = [(value(point), point) for point in rng.random((_RANDOM, len(space)))]
    median = float(np.median([each for each, _ in points]))
    for round_ in range(_ROUNDS):
        points = sorted(points, key=lambda each: -each[0])[:_SURVIVORS]
        for _, parent in list(points):
            steps = rng.normal(scale=0.2 * 0.6**round_, size=(_CHILDREN, len(space)))
            points += [(value(point), point) for point in np.clip(parent + steps, 0, 1)]
    return Reference(max(each for each, _ in points), median)
