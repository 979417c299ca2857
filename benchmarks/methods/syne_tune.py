"""Syne Tune 0.13, the last version with all of its multi-fidelity searches."""

from __future__ import annotations

import datetime
import logging
from typing import Any

from simulator import Job
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import lograndint, loguniform, randint, uniform
from syne_tune.optimizer import baselines

from methods import MIN_EPOCHS
from mlflow_hpo import SearchSpace
from mlflow_hpo.space import Parameter

logging.getLogger("syne_tune").setLevel(logging.ERROR)
_CONTINUE = "CONTINUE"  # Syne Tune's `SchedulerDecision`, which has moved
_MODEL_BASED = {"MOBSTER", "HyperTune"}


class SyneTune:
    """A scheduler, driven as Syne Tune's own tuner drives it."""

    def __init__(self, scheduler: Any, max_epochs: int) -> None:
        self._scheduler = scheduler
        self._max_epochs = max_epochs
        self._trials: dict[int, Trial] = {}
        self._epoch: dict[int, int] = {}
        self._stopped: set[int] = set()
        self._result: dict[int, dict[str, Any]] = {}

    def ask(self) -> Job | None:
        """Take a suggestion: a new trial or one to resume."""
        suggestion = self._scheduler.suggest(len(self._trials))
        if suggestion is None:
            return None
        if suggestion.spawn_new_trial_id:
            number = len(self._trials)
            self._trials[number] = Trial(number, suggestion.config, datetime.datetime(2025, 1, 1))
            self._epoch[number] = 0
            self._scheduler.on_trial_add(self._trials[number])
        else:
            number = suggestion.checkpoint_trial_id
            if suggestion.config is not None:
                self._trials[number].config = suggestion.config
        self._stopped.discard(number)
        return Job(number, self._trials[number].config, self._epoch[number], self._max_epochs)

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Ask whether the trial goes on, is paused or stopped."""
        self._epoch[trial] = epoch
        result = self._result[trial] = {"value": value, "epoch": epoch}
        if epoch == self._max_epochs:
            return True
        decision = self._scheduler.on_trial_result(self._trials[trial], result)
        if decision == _CONTINUE:
            return True
        self._stopped.add(trial)
        return False

    def complete(self, trial: int) -> None:
        """Tell the result of a trial that reached the last epoch; of the others the scheduler knows."""
        if trial not in self._stopped:
            self._scheduler.on_trial_complete(self._trials[trial], self._result[trial])


def make(space: SearchSpace, seed: int, max_epochs: int, *, name: str) -> SyneTune:
    """Return one of Syne Tune's baselines at its defaults, but for what is said of models below."""
    domain: dict[str, Any] = {key: written(each) for key, each in space.items()} | {"epochs": max_epochs}
    options: dict[str, Any] = {
        "metric": "value",
        "mode": "max",
        "random_seed": seed,
        "resource_attr": "epoch",
        "max_resource_attr": "epochs",
        "grace_period": MIN_EPOCHS,
        "reduction_factor": 3,
    }
    if name in _MODEL_BASED:
        # from 150 values on the model is fitted for every tenth proposal only: by then a fit takes a second
        options["search_options"] = {"debug_log": False, "opt_skip_period": 10}
    return SyneTune(getattr(baselines, name)(domain, **options), max_epochs)


def written(parameter: Parameter) -> Any:
    """Return a parameter as Syne Tune writes it."""
    if parameter.type == "int":
        return (lograndint if parameter.log else randint)(parameter.low, parameter.high)
    return (loguniform if parameter.log else uniform)(parameter.low, parameter.high)
