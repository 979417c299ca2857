"""A training without a surrogate: curves that rise to a height that the configuration decides."""

import numpy as np
from lcbench import Curve

from mlflow_hpo import SearchSpace


class Rising:
    """The best height is 100, at x = 0.3; an epoch takes 1 + y seconds."""

    max_epochs = 10
    space = SearchSpace(
        {"x": {"type": "float", "low": 0, "high": 1}, "y": {"type": "float", "low": 0, "high": 2}}
    )

    def curve(self, config):
        epochs = np.arange(1, self.max_epochs + 1)
        height = 100 * (1 - (config["x"] - 0.3) ** 2)
        return Curve(height * (1 - 0.5**epochs), np.full(self.max_epochs, 1 + config["y"]))
