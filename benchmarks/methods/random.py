"""Random search, the measure of all others."""

from __future__ import annotations

import numpy as np

from methods.full import FullTrainings
from mlflow_hpo import SearchSpace
from mlflow_hpo.space import Config


class RandomSearch(FullTrainings):
    """Draws from the prior."""

    def __init__(self, space: SearchSpace, seed: int, max_epochs: int) -> None:
        super().__init__(max_epochs)
        self._space = space
        self._rng = np.random.default_rng(seed)

    def propose(self, trial: int) -> Config:
        """Draw a configuration."""
        return self._space.sample(self._rng)


make = RandomSearch
