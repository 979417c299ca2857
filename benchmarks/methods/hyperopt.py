"""Hyperopt alone: its TPE with its defaults, every trial trained to the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, STATUS_OK, Trials, hp, tpe
from hyperopt.base import Domain

from methods.full import FullTrainings
from mlflow_hpo import SearchSpace
from mlflow_hpo.space import Config, Parameter


class Hyperopt(FullTrainings):
    """`tpe.suggest` on Hyperopt's own kinds of parameters, as its users write them."""

    def __init__(self, space: SearchSpace, seed: int, max_epochs: int) -> None:
        super().__init__(max_epochs)
        self._domain = Domain(None, {name: _written(name, each) for name, each in space.items()})
        self._space = space
        self._trials = Trials()
        self._rng = np.random.default_rng(seed)

    def propose(self, trial: int) -> Config:
        """Ask for one trial, which is pending from now on."""
        self._trials.refresh()
        (document,) = tpe.suggest([trial], self._domain, self._trials, int(self._rng.integers(2**31)))
        self._trials.insert_trial_docs([document])
        self._trials.refresh()
        values = {name: taken[0] for name, taken in document["misc"]["vals"].items()}
        return {
            name: type(each.low)(min(max(values[name], each.low), each.high))
            for name, each in self._space.items()
        }

    def learn(self, trial: int, value: float) -> None:
        """Set the result."""
        document = next(each for each in self._trials._dynamic_trials if each["tid"] == trial)
        document["result"] = {"status": STATUS_OK, "loss": -value}
        document["state"] = JOB_STATE_DONE


def _written(name: str, parameter: Parameter) -> Any:
    low, high = parameter.low, parameter.high
    if parameter.type == "float":
        return (
            hp.loguniform(name, math.log(low), math.log(high))
            if parameter.log
            else hp.uniform(name, low, high)
        )
    if parameter.log:
        return hp.qloguniform(name, math.log(low), math.log(high), 1)
    return hp.quniform(name, low, high, 1)


make = Hyperopt
