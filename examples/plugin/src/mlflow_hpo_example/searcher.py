"""A searcher: who proposes configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_hpo import SearchSpace
from mlflow_hpo.checks import finite_number
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.space import Config


class EvolutionSearcher(Searcher):
    """Varies the best configuration so far: a (1+1) evolution strategy.

    Args:
        space, seed, levels: as every searcher gets them.
        step: standard deviation of a variation, as a share of each parameter's range.

    Source: Rechenberg, Evolutionsstrategie (1973).
    """

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int], *, step: Any = 0.2) -> None:
        self.space = space
        self._step = finite_number("step", step, above=0)
        self._rng = np.random.default_rng(seed)
        self._configs: dict[int, Mapping[str, Any]] = {}
        self._best: tuple[float, int] = (math.inf, -1)  # loss, trial

    def suggest(self, trial_id: int) -> Config:
        """Propose a variation of the best configuration; a random one before there is any."""
        if (best := self._configs.get(self._best[1])) is None:
            config = self.space.sample(self._rng)
        else:
            places = self.space.to_unit(best)  # of the active parameters, each in [0, 1]
            varied = [
                places.get(name, self._rng.random()) + self._step * self._rng.normal()
                for name in self.space.names
            ]
            config = self.space.from_unit(np.clip(varied, 0.0, 1.0).tolist())
        self._configs[trial_id] = config
        return config

    def adopt(self, trial_id: int, config: Config) -> None:
        """Somebody else has proposed a configuration, maybe in place of ours."""
        self._configs[trial_id] = config

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Remember whose loss is the least."""
        self._best = min(self._best, (loss, trial_id))
