"""What one would do without a tool: train what was best on other tasks to the end, then search at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from methods.random import RandomSearch
from mlflow_hpo import History, SearchSpace
from mlflow_hpo.metalearning.portfolio import Portfolio
from mlflow_hpo.space import Config


class Given(RandomSearch):
    """Some configurations in their order, then random ones."""

    def __init__(self, space: SearchSpace, seed: int, max_epochs: int, configs: list[Config]) -> None:
        super().__init__(space, seed, max_epochs)
        self._configs = configs

    def propose(self, trial: int) -> Config:
        """Take the next one."""
        return self._configs[trial] if trial < len(self._configs) else super().propose(trial)


def make(
    space: SearchSpace,
    seed: int,
    max_epochs: int,
    *,
    history: History,
    features: Mapping[str, float],
    name: str,
) -> Given:
    """Return ``greedy``, our portfolio, or ``best-of-each``: the best trial of each task, in random order."""
    if name == "greedy":
        configs = [entry.config for entry in Portfolio(history, space, features).entries]
    else:
        best = [max(task.trials, key=lambda trial: trial.best(history.mode)) for task in history.tasks]
        order = np.random.default_rng(seed).permutation(len(best))
        configs = [best[at].config for at in order]
    return Given(space, seed, max_epochs, configs)
