"""How any configuration ends on a past task: a model of the learning curves that were seen there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlflow_hpo.metalearning.history import PastTask, PastTrial
from mlflow_hpo.searchers.curve_model import CurveModel, Points
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.searchers.scaling import scaled
from mlflow_hpo.space import SearchSpace

_MOST_POINTS = 250  # of a task that its model sees
_STEP = 2.0  # factor between the epochs of a curve that it sees


class TaskModel:
    """A Gaussian process of a task's learning curves.

    Losses are `scaled`, so that tasks can be compared. A trial that failed has an infinite one, which ranks
    last, at the epoch after its last.

    Args:
        task: what was tried; its configurations are valid in `space`.
        space: what the configurations are from.
        mode: "max" or "min", the better side of the values.
    """

    def __init__(self, task: PastTask, space: SearchSpace, mode: str) -> None:
        self._trials = task.trials
        self._encoding = Encoding(space)
        self._points = np.array([self._encoding.point(space.to_unit(trial.config)) for trial in task.trials])
        self._last = max((trial.curve[-1][0] for trial in task.trials if trial.curve), default=1)
        sign = -1.0 if mode == "max" else 1.0
        order = sorted(
            range(len(task.trials)),
            key=lambda index: (task.trials[index].failed, sign * task.trials[index].best(mode)),
        )
        curves = [_sparse(trial, sign, self._last) for trial in task.trials]
        known = [(index, epoch, loss) for index in order for epoch, loss in curves[index]]
        losses = scaled(np.array([loss for _, _, loss in known]))
        chosen = set(_chosen(order, [len(curve) for curve in curves]))
        kept = [at for at, (index, _, _) in enumerate(known) if index in chosen]
        losses = losses[kept]
        seen = [known[at] for at in kept]
        owners = np.array([index for index, _, _ in seen])
        heights = self._heights([epoch for _, epoch, _ in seen])
        places = Points(self._features(self._points[owners]), heights, owners)
        self._model = CurveModel(places.features.shape[1])
        if len(seen) > 1:
            self._model.fit(places, losses)
        self._model.condition(places, losses)
        self._ends = self._expected(self._points, np.arange(len(task.trials)), self._last)

    def ranked(self) -> list[PastTrial]:
        """Return the trials, first those that are expected to end best."""
        return [self._trials[index] for index in np.argsort(self._ends, kind="stable")]

    def expected(self, points: Array, epoch: float = math.inf) -> Array:
        """Return the expected loss (n) of points (n x d) of the unit cube after some epochs."""
        return self._expected(points, np.full(len(points), -1), min(epoch, self._last))

    @property
    def scales(self) -> Array:
        """The length scale of each feature."""
        return self._model.scales

    def share_better(self, loss: float) -> float:
        """Return the share of the task's trials that are expected to end better than a loss."""
        return float(np.mean(self._ends < loss))

    def _expected(self, points: Array, curves: npt.NDArray[np.int64], epoch: float) -> Array:
        ends = self._heights([epoch] * len(points))
        mean, _ = self._model.predict(Points(self._features(points), ends, curves))
        return mean

    def _features(self, points: Array) -> Array:
        return self._encoding.features(*self._encoding.snap(points))

    def _heights(self, epochs: Sequence[float]) -> Array:
        if self._last == 1:
            return np.ones(len(epochs))
        heights: Array = np.log(np.array(epochs, dtype=float)) / math.log(self._last)
        return heights


def _chosen(order: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return the trials that a model sees: the best ones, and others from all over the rest.

    Args:
        order: all trials, the best first.
        sizes: how many values each has.
    """
    values = np.cumsum([sizes[index] for index in order])
    if values[-1] <= _MOST_POINTS:
        return list(order)
    best = max(1, int(np.searchsorted(values, _MOST_POINTS / 2)))
    rest = order[best:]
    room = (_MOST_POINTS - values[best - 1]) / (values[-1] - values[best - 1])  # share of the rest
    evenly = np.linspace(0, len(rest) - 1, max(1, int(room * len(rest)))).round().astype(int)
    return [*order[:best], *(rest[at] for at in evenly)]


def _sparse(trial: PastTrial, sign: float, last: int) -> list[tuple[int, float]]:
    """Return losses at about 1, 2, 4, ... epochs and at the last one; then an infinite one if it failed."""
    kept: list[tuple[int, float]] = []
    for epoch, value in trial.curve:
        if not kept or epoch >= _STEP * kept[-1][0] or epoch == trial.curve[-1][0]:
            kept.append((epoch, sign * value))
    if trial.failed:
        reached = kept[-1][0] if kept else 0
        kept.append((min(reached + 1, last), math.inf))
    return kept
