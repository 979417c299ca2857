"""Ray Tune's ASHA on random configurations, driven as Ray's controller drives it but without a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from simulator import Job

from methods import MIN_EPOCHS
from mlflow_hpo import SearchSpace


class RayAsha:
    """The scheduler stops trials; with one bracket it draws nothing that matters by chance."""

    def __init__(self, space: SearchSpace, seed: int, max_epochs: int) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._max_epochs = max_epochs
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="value",
            mode="max",
            max_t=max_epochs,
            grace_period=MIN_EPOCHS,
            reduction_factor=3,
        )
        self._trials: list[SimpleNamespace] = []

    def ask(self) -> Job:
        """Start a random configuration."""
        trial = SimpleNamespace(trial_id=len(self._trials))
        self._trials.append(trial)
        self._scheduler.on_trial_add(None, trial)
        return Job(trial.trial_id, self._space.sample(self._rng), 0, self._max_epochs)

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Ask whether the trial goes on."""
        result = {"epoch": epoch, "value": value}
        action = self._scheduler.on_trial_result(None, self._trials[trial], result)
        return action == TrialScheduler.CONTINUE

    def complete(self, trial: int) -> None:
        """Forget the trial; its results are known."""
        self._scheduler.on_trial_remove(None, self._trials[trial])


make = RayAsha
