"""Portfolio: the few configurations that together serve the tasks of a history best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_hpo.metalearning.history import History, PastTask, PastTrial
from mlflow_hpo.metalearning.task_model import TaskModel
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.space import Config, SearchSpace

_MOST_TASKS = 50  # the most similar ones, so that a long history costs seconds
_CANDIDATES = 10  # of each task's best
_LEAST_WEIGHT = 0.05  # of the task that is least similar


@dataclass(frozen=True, slots=True)
class Entry:
    """A configuration to start with.

    Attributes:
        config: its values.
        task, run_id: where it was tried.
        expected: the share of a task's trials that are expected to end better, the weighted mean over tasks;
            0 for the best, 1/2 for a middling one.
    """

    config: Config
    task: str
    run_id: str
    expected: float


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Configurations to start with, best first, and the weight of each task that they were chosen for."""

    entries: tuple[Entry, ...] = ()
    weights: Mapping[str, float] | None = None


def choose_portfolio(
    history: History,
    space: SearchSpace,
    size: int,
    features: Mapping[str, float] | None = None,
    taken: Iterable[Config] = (),
) -> Portfolio:
    """Choose configurations that complement each other on the tasks of a history.

    A `TaskModel` of each task foretells how any configuration ends there. Candidates are the 10 different
    configurations that end best on each task, but none that failed there. Then, again and again, the
    candidate is taken that lowers the weighted mean over tasks of the best loss in the portfolio most. When
    none lowers it, another round begins with those that are left.

    A task weighs the more, the more similar its features are to those of the new task:
    ``exp(-d**2 / (2 * m))``, with `d` the distance in the features that all tasks have, each scaled to
    deviation 1, and `m` the mean of ``d**2`` over the tasks. Without features in common all weigh the same.

    Args:
        history: what was tried; configurations outside of `space` are passed over.
        space: what the new task searches.
        size: at most that many configurations.
        features: of the new task.
        taken: configurations that are tried anyway.

    Source: greedy portfolios by Xu et al., Hydra, AAAI 2010, and Feurer et al., Auto-Sklearn 2.0, JMLR 23
    (2022), section 3; similar tasks first by Feurer et al., Initializing Bayesian Hyperparameter
    Optimization via Meta-Learning, AAAI 2015; a model of each task by Wistuba et al., Scalable Gaussian
    Process-based Transfer Surrogates, Machine Learning 107 (2018).
    """
    history = history.within(space)
    weights = _weights(history.tasks, features or {})
    tasks = sorted(history.tasks, key=lambda task: -weights[task.name])[:_MOST_TASKS]
    if not tasks or size < 1:
        return Portfolio()
    models = [TaskModel(task, space, history.mode) for task in tasks]
    candidates = _candidates(tasks, models, taken)
    if not candidates:
        return Portfolio()
    encoding = Encoding(space)
    points = np.array([encoding.point(space.to_unit(trial.config)) for _, trial in candidates])
    expected = np.stack([model.expected(points) for model in models])  # tasks x candidates
    importance = np.array([weights[task.name] for task in tasks])
    importance /= importance.sum()
    entries = []
    for pick in _greedy(expected, importance, size):
        task, trial = candidates[pick]
        better = [model.share_better(loss) for model, loss in zip(models, expected[:, pick], strict=True)]
        entries.append(Entry(trial.config, task.name, trial.run_id, float(importance @ np.array(better))))
    weight_of = {task.name: float(weight) for task, weight in zip(tasks, importance, strict=True)}
    return Portfolio(tuple(entries), weight_of)


def _candidates(
    tasks: Sequence[PastTask], models: Sequence[TaskModel], taken: Iterable[Config]
) -> list[tuple[PastTask, PastTrial]]:
    """Return the best trials of each task, each configuration once."""
    seen = {_key(config) for config in taken}
    candidates = []
    for task, model in zip(tasks, models, strict=True):
        different = 0
        for trial in model.ranked():
            if different == _CANDIDATES:
                break
            if not trial.failed and _key(trial.config) not in seen:
                seen.add(_key(trial.config))
                candidates.append((task, trial))
                different += 1
    return candidates


def _key(config: Config) -> tuple[tuple[str, str], ...]:
    """Return what equal configurations have in common."""
    return tuple(sorted((name, repr(value)) for name, value in config.items()))


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
    weights = np.exp(-squares / max(2 * squares.mean(), 1e-12))
    return {task.name: float(max(weight, _LEAST_WEIGHT)) for task, weight in zip(tasks, weights, strict=True)}
