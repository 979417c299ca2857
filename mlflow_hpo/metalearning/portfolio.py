"""Portfolio: the configurations that together serve the tasks of a history best, and the prior they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_hpo.metalearning.history import History, PastTask, PastTrial
from mlflow_hpo.metalearning.task_model import TaskModel
from mlflow_hpo.searchers.encoding import Array, Encoding
from mlflow_hpo.searchers.prior import Prior
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.searchers.threads import one_thread
from mlflow_hpo.space import Config, SearchSpace

_MOST_TASKS = 50  # the most similar ones, so that a long history costs seconds
_CANDIDATES = 10  # of each task's best
_LEAST_WEIGHT = 0.05  # of the task that is least similar
_NODES = 300  # evenly spread configurations at which the prior is worked out, besides the candidates
_HEIGHTS = 7  # numbers of epochs at which it is


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


class Portfolio:
    """Configurations that complement each other on the tasks of a history.

    A `TaskModel` of each task foretells how any configuration ends there. Candidates are the 10 different
    configurations that end best on each task, but none that failed there. Then, again and again, the
    candidate is taken that lowers the weighted mean over tasks of the best loss in the portfolio most. When
    none lowers it, another round begins with those that are left.

    A task weighs the more, the more similar its features are to those of the new task:
    ``exp(-d**2 / (2 * m))``, with `d` the distance in the features that they share, each scaled to deviation
    1, and `m` the mean of ``d**2`` over the tasks. Tasks that have none of the new one's features weigh the
    mean of the others; where the others share none, all weigh the same.

    Args:
        history: what was tried; configurations outside of `space` are passed over.
        space: what the new task searches.
        features: of the new task.

    Attributes:
        entries: all candidates, the first to be taken first.
        weights: of each task, by name, the sum being 1.

    Source: greedy portfolios by Xu et al., Hydra, AAAI 2010, and Feurer et al., Auto-Sklearn 2.0, JMLR 23
    (2022), section 3; similar tasks first by Feurer et al., Initializing Bayesian Hyperparameter
    Optimization via Meta-Learning, AAAI 2015; a model of each task by Wistuba et al., Scalable Gaussian
    Process-based Transfer Surrogates, Machine Learning 107 (2018).
    """

    @one_thread()
    def __init__(
        self, history: History, space: SearchSpace, features: Mapping[str, float] | None = None
    ) -> None:
        history = history.within(space)
        weights = _weights(history.tasks, features or {})
        tasks = sorted(history.tasks, key=lambda task: -weights[task.name])[:_MOST_TASKS]
        self._space = space
        self._encoding = Encoding(space)
        self._models = [history.model(task, space) for task in tasks]
        importance = np.array([weights[task.name] for task in tasks])
        self._importance = importance / importance.sum()
        self.weights = {
            task.name: float(weight) for task, weight in zip(tasks, self._importance, strict=True)
        }
        self.entries = self._entries(_candidates(tasks, self._models))

    def _entries(self, candidates: Sequence[tuple[PastTask, PastTrial]]) -> tuple[Entry, ...]:
        if not candidates:
            return ()
        points = self._points([trial.config for _, trial in candidates])
        losses = np.stack([model.expected(points) for model in self._models])  # tasks x candidates
        entries = []
        for pick in _greedy(losses, self._importance):
            task, trial = candidates[pick]
            better = [
                model.share_better(loss) for model, loss in zip(self._models, losses[:, pick], strict=True)
            ]
            expected = float(self._importance @ np.array(better))
            entries.append(Entry(trial.config, task.name, trial.run_id, expected))
        return tuple(entries)

    @one_thread()
    def prior(self, levels: Sequence[int]) -> Prior | None:
        """Return what the tasks lead to expect; None where there is no candidate.

        Args:
            levels: the epochs at which the new task compares trials, ascending.
        """
        if not self.entries:
            return None
        sobol = SobolSearcher(self._space, 0, levels)
        spread = [sobol.suggest(number) for number in range(_NODES)]
        configs = [entry.config for entry in self.entries]
        points = np.unique(self._points([*spread, *configs]), axis=0)
        epochs = np.unique(np.geomspace(levels[0], levels[-1], _HEIGHTS))
        losses = np.stack(
            [[model.expected(points, epoch) for epoch in epochs] for model in self._models], axis=-1
        )  # epochs x points x tasks
        scales = np.exp(np.mean([np.log(model.scales) for model in self._models], axis=0))
        return Prior.interpolated(
            losses.swapaxes(0, 1),
            features=self._encoding.features(*self._encoding.snap(points)),
            scales=scales,
            epochs=epochs,
            weights=self._importance,
            configs=configs,
        )

    def _points(self, configs: Sequence[Config]) -> Array:
        return np.array([self._encoding.point(self._space.to_unit(config)) for config in configs])


def _candidates(tasks: Sequence[PastTask], models: Sequence[TaskModel]) -> list[tuple[PastTask, PastTrial]]:
    """Return the best trials of each task, each configuration once."""
    seen = set()
    candidates = []
    for task, model in zip(tasks, models, strict=True):
        different = 0
        for trial in model.ranked():
            if different == _CANDIDATES:
                break
            key = config_key(trial.config)
            if not trial.failed and key not in seen:
                seen.add(key)
                candidates.append((task, trial))
                different += 1
    return candidates


def config_key(config: Config) -> tuple[tuple[str, str], ...]:
    """Return what equal configurations have in common."""
    return tuple(sorted((name, repr(value)) for name, value in config.items()))


def _greedy(expected: Array, importance: Array) -> list[int]:
    """Return the candidates in the order in which they are taken.

    Args:
        expected: loss of each candidate on each task, tasks x candidates.
        importance: weight of each task, the sum being 1.
    """
    chosen: list[int] = []
    left = list(range(expected.shape[1]))
    reached = np.full(len(expected), np.inf)  # the best loss on each task in the present round
    while left:
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
    known = [task for task in tasks if task.features.keys() & features.keys()]
    shared = sorted(name for name in features if all(name in task.features for task in known))
    if not shared or not known:
        return {task.name: 1.0 for task in tasks}
    table = np.array([[task.features[name] for name in shared] for task in known])
    new = np.array([features[name] for name in shared])
    scale = np.vstack([table, new]).std(axis=0)
    apart = ((table - new) / np.where(scale > 0, scale, 1.0)) ** 2
    squares = apart.mean(axis=1)
    weights = np.maximum(np.exp(-squares / max(2 * squares.mean(), 1e-12)), _LEAST_WEIGHT)
    similar = {task.name: float(weight) for task, weight in zip(known, weights, strict=True)}
    return {task.name: similar.get(task.name, float(weights.mean())) for task in tasks}
