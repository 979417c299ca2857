"""What a model of the learning curves believes, with or without what earlier tasks taught."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_hpo.searchers.curve_model import CurveModel, Points
from mlflow_hpo.searchers.encoding import Array
from mlflow_hpo.searchers.prior import Prior
from mlflow_hpo.searchers.rank_correlation import rank_correlations
from mlflow_hpo.searchers.scaling import scaled

_GROWTH = 1.2  # the model is fitted again once there is so much more data
_APART = 0.5  # deviation of a task's losses from what earlier tasks lead to expect, before they are known


@dataclass(frozen=True)
class Places:
    """Places on learning curves: features of configurations (n x f), epochs (n), the curves' numbers (n)."""

    features: Array
    epochs: Sequence[float]
    curves: Sequence[int]


class Belief:
    """A `CurveModel` of a search, on a scale of losses that it can take.

    With a `prior` the model begins with what earlier tasks lead to expect, as far as it is trusted. Losses
    are moved and stretched until their mean and spread are those that were to be expected at their places.

    Args:
        features: how many features a configuration has, f.
        levels: epochs at which the search compares trials, ascending.
        prior: what earlier tasks lead to expect, if anything.
    """

    def __init__(self, features: int, levels: Sequence[int], prior: Prior | None = None) -> None:
        self._first, self._last = levels[0], levels[-1]
        self._prior = prior
        self._model = CurveModel(features, None if prior is None else prior.weights)
        self._fitted = 0  # losses known at the last fit

    def learn(
        self, seen: Places, losses: Array, waiting: Places | None, *, known: int, trust: float
    ) -> Array:
        """Learn losses (n), of which some may be infinite, and forget all others.

        Args:
            seen: where they were seen.
            losses: what was seen.
            waiting: where losses are to come: they are believed to be what the model expects.
            known: how many losses the search has had, seen or not; decides when the model is fitted again.
            trust: what the prior counts, from 0 to 1.

        Returns:
            The losses on the scale of `outlook`.
        """
        self._model.trust = trust
        points = self._points(seen)
        losses = self._scaled(losses, points)
        if known >= self._fitted * _GROWTH:
            self._model.fit(points, losses)
            self._fitted = known
        self._model.condition(points, losses)
        if waiting is not None:
            later = self._points(waiting)
            expected, _ = self._model.predict(later)
            self._model.condition(points + later, np.concatenate([losses, expected]))
        return losses

    def outlook(self, places: Places) -> tuple[Array, Array]:
        """Return the mean (n) and standard deviation (n) of the losses at some places."""
        return self._model.predict(self._points(places))

    def agreement(self, seen: Places, losses: Array) -> float:
        """Return how losses (n), some perhaps infinite, rank as earlier tasks lead to expect, from -1 to 1.

        It is the mean of Spearman's correlations, by the tasks' weights; 1 without a prior.
        """
        if self._prior is None:
            return 1.0
        expected = self._prior.expected(seen.features, np.array(seen.epochs, dtype=float))
        return float(self._prior.weights @ rank_correlations(losses, expected))

    def unwarped(self, evenly: Array) -> Array:
        """Return evenly spread features (n x f) closer together where the losses change most."""
        return self._model.unwarped(evenly)

    def _scaled(self, losses: Array, points: Points) -> Array:
        losses = scaled(losses)
        if self._prior is not None:
            expected = self._model.expected(points)
            apart = 1 - (1 - _APART) * self._model.trust
            losses = expected.mean() + losses * math.hypot(expected.std(), apart)
        return losses

    def _points(self, places: Places) -> Points:
        epochs = np.array(places.epochs, dtype=float)
        trends = None if self._prior is None else self._prior.expected(places.features, epochs)
        return Points(places.features, self._heights(epochs), np.array(places.curves), trends)

    def _heights(self, epochs: npt.NDArray[np.float64]) -> Array:
        """Return how far along a curve some epochs are, on the logarithmic scale."""
        if self._first == self._last:
            return np.ones(len(epochs))
        heights: Array = np.log(epochs / self._first) / math.log(self._last / self._first)
        return heights
