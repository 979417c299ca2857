"""Syne Tune's conformal quantile regression, at full fidelity; of 0.16, as the wheel of 0.13 lacks it."""

from __future__ import annotations

import datetime
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import CQR

from methods.full import FullTrainings
from methods.syne_tune import written
from mlflow_hpo import SearchSpace
from mlflow_hpo.space import Config


class Cqr(FullTrainings):
    """The scheduler at its defaults, told the best value of each trial."""

    def __init__(self, space: SearchSpace, seed: int, max_epochs: int) -> None:
        super().__init__(max_epochs)
        config_space = {name: written(each) for name, each in space.items()}
        self._scheduler = CQR(config_space, metric="value", do_minimize=False, random_seed=seed)
        self._configs: dict[int, dict[str, Any]] = {}

    def propose(self, trial: int) -> Config:
        """Take a suggestion."""
        self._configs[trial] = dict(self._scheduler.suggest().config)
        return self._configs[trial]

    def learn(self, trial: int, value: float) -> None:
        """Tell the result."""
        ended = Trial(trial, self._configs.pop(trial), datetime.datetime(2025, 1, 1))
        self._scheduler.on_trial_complete(ended, {"value": value})


make = Cqr
