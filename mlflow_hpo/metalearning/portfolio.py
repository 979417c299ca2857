"""Portfolio: the few configurations that together serve the tasks of a history best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from mlflow_hpo.metalearning.history import History, PastTask, PastTrial
from mlflow_hpo.searchers.curve_model import CurveModel, Points
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.space import Config, SearchSpace

_MOST_TASKS = 50  # the most similar ones, so that a long history costs seconds
_MOST_POINTS = 250  # of one task that its model sees
_CANDIDATES = 10  # of each task's best
_STEP = 2.0  # factor between the epochs of a curve that a model sees
_LEAST_WEIGHT = 0.05  # of the task that is least similar


@dataclass(frozen=True, slots=True)
class Entry:
    """A configuration to start with.

    Attributes:
        config: its values.
        task, run_id: where it was tried.
        expected: the share of a task's trials that are expected to end better, the weighted mean over tasks.
    """

    config: Config
    task: str
    run_id: str
    expected: float


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Configurations to start with, best first, and the weight of each task that they were chosen for."""

    entries: tuple[Entry, ...]
    weights: Mapping[str, float]


def choose_portfolio(
    history: History, space: SearchSpace, size: int, features: Mapping[str, float] | None = None
) -> Portfolio:
    """Choose configurations that complement each other on the tasks of a history.

    Each task's losses become the normal quantiles of their ranks, so that tasks can be compared, and a
    `CurveModel` of them foretells how any configuration ends there: tasks need not have tried the same
    configurations, nor trained them as far. Candidates are the 10 that end best on each task. Then,
    again and again, the candidate is taken that lowers the weighted mean over tasks of the best loss in the
    portfolio most. When none lowers it, another round begins with those that are left.

    A task weighs the more, the more similar its features are to those of the new task:
    ``exp(-d**2 / 2)``, with `d` the distance over its mean, in the features that both have, each scaled to
    deviation 1 over the tasks. Without features in common all weigh the same.

    Args:
        history: what was tried; configurations outside of `space` are passed over.
        space: what the new task searches.
        size: at most that many configurations.
        features: of the new task.

    Source: greedy portfolios by Xu et al., Hydra, AAAI 2010, and Feurer et al., Auto-Sklearn 2.0, JMLR 23
    (2022), section 3; similar tasks first by Feurer et al., Initializing Bayesian Hyperparameter
    Optimization via Meta-Learning, AAAI 2015; a model of each task by Wistuba et al., Scalable Gaussian
    Process-based Transfer Surrogates, Machine Learning 107 (2018).
    """
    history = history.within(space)
    weights = _weights(history.tasks, features or {})
    tasks = sorted(history.tasks, key=lambda task: -weights[task.name])[:_MOST_TASKS]
    if not tasks or size < 1:
        return Portfolio((), {})
    models = [_TaskModel(task, space, history.mode) for task in tasks]
    candidates = [
        (task, trial) for task, model in zip(tasks, models, strict=True) for trial in model.best(_CANDIDATES)
    ]
    encoding = Encoding(space)
    points = np.array([encoding.point(space.to_unit(trial.config)) for _, trial in candidates])
    expected = np.stack([model.expected(points) for model in models])  # tasks x candidates
    importance = np.array([weights[task.name] for task in tasks])
    importance /= importance.sum()
    chosen = _greedy(expected, importance, size)
    entries = []
    for pick in chosen:
        task, trial = candidates[pick]
        entries.append(
            Entry(trial.config, task.name, trial.run_id, float(importance @ ndtr(expected[:, pick])))
        )
    return Portfolio(
        tuple(entries), {task.name: float(weight) for task, weight in zip(tasks, importance, strict=True)}
    )


def _greedy(expected: Array, importance: Array, size: int) -> list[int]:
    """Return the candidates to take, in their order.

    Args:
        expected: loss of each candidate on each task, tasks x candidates.
        importance: weight of each task, the sum being 1.
        size: how many at most.
    """
    chosen: list[int] = []
    left = list(range(expected.shape[1]))
    reached = np.full(len(expected), np.inf)  # the best loss on each task in the present round
    while left and len(chosen) < size:
        means = importance @ np.minimum(reached[:, None], expected[:, left])
        pick = left[int(np.argmin(means))]
        if np.isfinite(reached).all() and means.min() >= importance @ reached - 1e-9:
            reached = np.full(len(expected), np.inf)  # nothing is gained: begin another round
            continue
        chosen.append(pick)
        left.remove(pick)
        reached = np.minimum(reached, expected[:, pick])
    return chosen


class _TaskModel:
    """How any configuration ends on one task."""

    def __init__(self, task: PastTask, space: SearchSpace, mode: str) -> None:
        self._task = task
        self._encoding = Encoding(space)
        self._points = np.array([self._encoding.point(space.to_unit(trial.config)) for trial in task.trials])
        self._last = max(trial.curve[-1][0] for trial in task.trials)
        sign = -1.0 if mode == "max" else 1.0
        order = sorted(range(len(task.trials)), key=lambda index: sign * task.trials[index].best(mode))
        seen: list[tuple[int, int, float]] = []  # trial, epoch, loss
        for index in _spread(order):
            seen += [(index, epoch, sign * value) for epoch, value in _sparse(task.trials[index].curve)]
            if len(seen) >= _MOST_POINTS:
                break
        which = np.array([index for index, _, _ in seen])
        losses = _quantiles(np.array([loss for _, _, loss in seen]))
        places = Points(
            self._features(self._points[which]), self._heights([epoch for _, epoch, _ in seen]), which
        )
        self._model = CurveModel(places.features.shape[1])
        if len(seen) > 1:
            self._model.fit(places, losses)
        self._model.condition(places, losses)

    def best(self, count: int) -> list[PastTrial]:
        """Return the trials that are expected to end best."""
        order = np.argsort(self.expected(self._points, known=True), kind="stable")[:count]
        return [self._task.trials[index] for index in order]

    def expected(self, points: Array, *, known: bool = False) -> Array:
        """Return the expected loss (n) of points (n x d) at the last epoch; `known`: they are its trials."""
        curves = np.arange(len(points)) if known else np.full(len(points), -1)
        ends = self._heights([self._last] * len(points))
        mean, _ = self._model.predict(Points(self._features(points), ends, curves))
        return mean

    def _features(self, points: Array) -> Array:
        return self._encoding.features(*self._encoding.snap(points))

    def _heights(self, epochs: Sequence[int]) -> Array:
        if self._last == 1:
            return np.ones(len(epochs))
        heights: Array = np.log(np.array(epochs, dtype=float)) / math.log(self._last)
        return heights


def _spread(order: list[int]) -> list[int]:
    """Return the best half as they are, and between each two of them one of the others, evenly drawn."""
    half = (len(order) + 1) // 2
    best, others = order[:half], order[half:]
    mixed = [each for pair in zip(best, others, strict=False) for each in pair]
    return mixed + best[len(others) :]


def _sparse(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points of a curve at about 1, 2, 4, 8, ... epochs, and the last one."""
    kept: list[tuple[int, float]] = []
    for epoch, value in curve:
        if not kept or epoch >= _STEP * kept[-1][0]:
            kept.append((epoch, value))
    return kept if kept[-1] == curve[-1] else [*kept, curve[-1]]


def _quantiles(losses: Array) -> Array:
    from scipy.stats import rankdata  # takes a second to import

    quantiles: Array = ndtri((rankdata(losses) - 0.5) / len(losses))
    return quantiles


def _weights(tasks: Sequence[PastTask], features: Mapping[str, float]) -> dict[str, float]:
    """Return how much each task counts, 1 for one that is the same."""
    shared = sorted(name for name in features if all(name in task.features for task in tasks))
    if not shared or not tasks:
        return {task.name: 1.0 for task in tasks}
    table = np.array([[task.features[name] for name in shared] for task in tasks])
    new = np.array([features[name] for name in shared])
    scale = np.vstack([table, new]).std(axis=0)
    apart = ((table - new) / np.where(scale > 0, scale, 1.0)) ** 2
    squares = apart.mean(axis=1)
    weights = np.exp(-squares / max(2 * squares.mean(), 1e-12)) if squares.mean() > 0 else np.ones(len(tasks))
    return {task.name: float(max(weight, _LEAST_WEIGHT)) for task, weight in zip(tasks, weights, strict=True)}
