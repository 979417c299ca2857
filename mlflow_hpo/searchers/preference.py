"""Which of several proposals earlier tasks lead to prefer, the less the more the new task has taught."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.searchers.prior import Prior
from mlflow_hpo.searchers.rank_correlation import rank_correlations
from mlflow_hpo.space import Config, SearchSpace

_AT_FIRST = 16  # proposals of which one is taken
_HALF = 10.0  # full trainings after which it is one of half as many
_FREE = 4  # every so many-th trial has the first proposal
_FEW, _MOST = 8, 64  # losses that say something about a history, and that are looked at


class Preference:
    """What a searcher makes of a `Prior` that has no place for one in its own model.

    A trial has that one of 16 proposals which the weighted mean of the earlier tasks expects to end best;
    after `t` full trainings, of ``16 / (1 + t / 10)``. Every fourth trial has the first proposal.

    The losses of trials at the first of the levels are compared with what the tasks lead to expect there. If
    eight or more do not agree with them at all (Spearman's correlation with the weighted mean is not above
    0), the history misleads, and the first proposal is taken from then on.

    Args:
        prior: what earlier tasks lead to expect.
        space: what is searched.
        levels: the epochs at which trials are compared, ascending.

    Attributes:
        misled: whether the losses have contradicted the history.

    Source: a belief of where the best lies that fades: Hvarfner et al., piBO: Augmenting Acquisition
    Functions with User Beliefs for Bayesian Optimization, ICLR 2022; here it weighs on proposals, whoever
    makes them.
    """

    def __init__(self, prior: Prior, space: SearchSpace, levels: Sequence[int]) -> None:
        self.misled = False
        self._prior = prior
        self._space = space
        self._encoding = Encoding(space)
        self._first, self._last = levels[0], levels[-1]
        self._reached: dict[int, int] = {}  # epochs that each trial has been trained for
        self._trained = 0
        self._pending: dict[int, Array] = {}  # the points of trials that have not reached the first level
        self._seen: list[Array] = []  # the first trials at the first level, and their losses there
        self._losses: list[float] = []

    def choices(self, trial_id: int) -> int:
        """Return of how many proposals a trial has the best."""
        if self.misled or trial_id % _FREE == _FREE - 1:
            return 1
        return round(_AT_FIRST / (1 + self._trained / self._last / _HALF)) or 1

    def best(self, trial_id: int, proposals: Iterable[Config]) -> Config:
        """Return the one of one or more proposals that the trial should have."""
        few = list(islice(proposals, self.choices(trial_id)))
        if len(few) == 1:
            return few[0]
        return few[int(np.argmin(self._expected(np.array([self._point(config) for config in few]))))]

    def sifted(self, trial_id: int, points: Array, count: int) -> Array:
        """Return so many of some points (n x d) of the unit cube: those that the trial should rather have."""
        return points[np.argsort(self._expected(points), kind="stable")[:count]]

    def adopt(self, trial_id: int, config: Config) -> None:
        """Take the configuration of a trial, before its losses."""
        self._pending[trial_id] = self._point(config)

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Take the loss of a trial after `resource` epochs."""
        before = self._reached.get(trial_id, 0)
        self._trained += resource - before
        self._reached[trial_id] = resource
        if before >= self._first or resource < self._first:
            return
        point = self._pending.pop(trial_id)
        if len(self._losses) < _MOST:
            self._seen.append(point)
            self._losses.append(loss)
            if len(self._losses) >= _FEW:
                self.misled = self.misled or self._agreement <= 0

    @property
    def _agreement(self) -> float:
        expected = self._expected(np.array(self._seen), self._first)
        return float(rank_correlations(np.array(self._losses), expected[:, None])[0])

    def _expected(self, points: Array, epochs: float | None = None) -> Array:
        """Return the losses (n) expected of points (n x d), the mean over tasks; at the end if not told."""
        features = self._encoding.features(*self._encoding.snap(points))
        at = np.full(len(points), float(epochs or self._last))
        expected: Array = self._prior.expected(features, at) @ self._prior.weights
        return expected

    def _point(self, config: Config) -> Array:
        return self._encoding.point(self._space.to_unit(config))
