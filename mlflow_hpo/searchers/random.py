"""Random search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.space import Config, SearchSpace


class RandomSearcher(Searcher):
    """Draws every configuration independently from the prior of the space.

    The proposal for a trial depends on the seed and the trial's id alone.

    Source: Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, JMLR 13 (2012).
    """

    memoryless = True

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int]) -> None:
        self.space = space
        self._seed = seed

    def suggest(self, trial_id: int) -> Config:
        """Draw from the prior."""
        return self.space.sample(np.random.default_rng((self._seed, trial_id)))
