"""Syne Tune's searches that are told of other tasks; of 0.13, which has all of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from syne_tune.optimizer import baselines
from syne_tune.optimizer.schedulers import FIFOScheduler
from syne_tune.optimizer.schedulers.transfer_learning import (
    BoundingBox,
    RUSHScheduler,
    TransferLearningTaskEvaluations,
)
from syne_tune.optimizer.schedulers.transfer_learning.quantile_based.quantile_based_searcher import (
    QuantileBasedSurrogateSearcher,
)
from syne_tune.optimizer.schedulers.transfer_learning.zero_shot import ZeroShotTransfer

from methods import MIN_EPOCHS
from methods.syne_tune import SyneTune, written
from mlflow_hpo import History, SearchSpace


class FullTrainings(SyneTune):
    """A scheduler that hears of the end of each trial only, and of its best value."""

    def __init__(self, scheduler: Any, max_epochs: int) -> None:
        super().__init__(scheduler, max_epochs)
        self._best: dict[int, float] = {}

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Remember the best value."""
        self._best[trial] = max(value, self._best.get(trial, value))
        self._result[trial] = {"value": self._best[trial], "epoch": epoch}
        return True


def make(
    space: SearchSpace,
    seed: int,
    max_epochs: int,
    *,
    history: History,
    features: Mapping[str, float],  # none of them asks for any
    name: str,
) -> SyneTune:
    """Return one of the four, with the options of Syne Tune's own examples where it has no defaults."""
    domain = {key: written(each) for key, each in space.items()}
    told = {task.name: _evaluations(task.trials, domain, space, max_epochs) for task in history.tasks}
    options: dict[str, Any] = {"metric": "value", "mode": "max"}
    with contextlib.redirect_stdout(io.StringIO()):
        if name == "rush":
            paced = {"resource_attr": "epoch", "max_resource_attr": "epochs", "grace_period": MIN_EPOCHS}
            scheduler = RUSHScheduler(
                {**domain, "epochs": max_epochs},
                transfer_learning_evaluations=_with_epochs(told, max_epochs),
                random_seed=seed,
                reduction_factor=3,
                **options,
                **paced,
            )
            return SyneTune(scheduler, max_epochs)
        if name == "bounding-box":
            scheduler = BoundingBox(
                scheduler_fun=lambda narrowed, mode, metric: baselines.RandomSearch(
                    narrowed, metric=metric, mode=mode, random_seed=seed
                ),
                config_space=domain,
                transfer_learning_evaluations=told,
                num_hyperparameters_per_task=1,
                **options,
            )
            return FullTrainings(scheduler, max_epochs)
        known = {"transfer_learning_evaluations": told, "random_seed": seed, **options}
        if name == "zero-shot":
            searcher = ZeroShotTransfer(domain, use_surrogates=True, **known)
        else:
            searcher = QuantileBasedSurrogateSearcher(domain, **known)
        return FullTrainings(
            FIFOScheduler(domain, searcher=searcher, random_seed=seed, **options), max_epochs
        )


def _evaluations(
    trials: Any, domain: dict[str, Any], space: SearchSpace, max_epochs: int
) -> TransferLearningTaskEvaluations:
    values = np.array([[value for _, value in trial.curve] for trial in trials]).reshape(-1, 1, max_epochs, 1)
    configs = pd.DataFrame([trial.config for trial in trials], columns=list(space))
    return TransferLearningTaskEvaluations(domain, configs, ["value"], values)


def _with_epochs(
    told: Mapping[str, TransferLearningTaskEvaluations], max_epochs: int
) -> dict[str, TransferLearningTaskEvaluations]:
    """Return what was told with a column for the constant that RUSH wants in the space."""
    return {
        name: TransferLearningTaskEvaluations(
            {**each.configuration_space, "epochs": max_epochs},
            each.hyperparameters.assign(epochs=max_epochs),
            each.objectives_names,
            each.objectives_evaluations,
        )
        for name, each in told.items()
    }
