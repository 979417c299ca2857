"""Sobol sequence: random search that covers the space evenly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.space import Config, SearchSpace


class SobolSearcher(Searcher):
    """Proposes the points of a scrambled Sobol sequence in the unit cube of the space.

    The points leave smaller gaps and make fewer clusters than independent draws; each alone is still a draw
    from the prior. The balance is best at powers of two, and `trials` should be one where it is free to
    choose. It learns from nothing. A space may have up to 21,201 parameters.

    Source: Sobol', On the distribution of points in a cube, USSR Computational Mathematics and Mathematical
    Physics 7 (1967); directions by Joe and Kuo (2008) and scrambling by Owen, as in `scipy.stats.qmc.Sobol`.
    """

    def __init__(self, space: SearchSpace, seed: int, levels: Sequence[int]) -> None:
        from scipy.stats import qmc  # takes a second to import

        if len(space) > qmc.Sobol.MAXDIM:
            raise ConfigError("", f"sobol takes at most {qmc.Sobol.MAXDIM} parameters, got {len(space)}")
        self.space = space
        # 64 bits, not scipy's 30: the sequence does not end
        self._sequence = qmc.Sobol(len(space), scramble=True, bits=64, rng=np.random.default_rng(seed))

    def suggest(self, trial_id: int) -> Config:
        """Propose the next point of the sequence."""
        # one at a time: scipy warns of any other first draw that is not a power of two
        (point,) = self._sequence.random(1)
        return self.space.from_unit(point.tolist())
