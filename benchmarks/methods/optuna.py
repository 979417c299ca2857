"""Optuna: its samplers, alone or with its pruners."""

from __future__ import annotations

import warnings

import optuna
from simulator import Job

from methods import MIN_EPOCHS
from mlflow_hpo import SearchSpace
from mlflow_hpo.space import Config

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Optuna:
    """A study by ask and tell; a trial's value is its last epoch's if it may be pruned, else its best one."""

    def __init__(self, study: optuna.Study, space: SearchSpace, max_epochs: int, prunes: bool) -> None:
        self._study = study
        self._space = space
        self._max_epochs = max_epochs
        self._prunes = prunes
        self._running: dict[int, optuna.Trial] = {}
        self._values: dict[int, list[float]] = {}
        self._pruned: set[int] = set()

    def ask(self) -> Job:
        """Start a trial."""
        trial = self._study.ask()
        self._running[trial.number] = trial
        self._values[trial.number] = []
        return Job(trial.number, self._config(trial), 0, self._max_epochs)

    def _config(self, trial: optuna.Trial) -> Config:
        return {
            name: (trial.suggest_int if each.type == "int" else trial.suggest_float)(
                name, each.low, each.high, log=each.log
            )
            for name, each in self._space.items()
        }

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Ask the pruner."""
        self._values[trial].append(value)
        if self._prunes and epoch < self._max_epochs:
            self._running[trial].report(value, epoch)
            if self._running[trial].should_prune():
                self._pruned.add(trial)
                return False
        return True

    def complete(self, trial: int) -> None:
        """Tell the trial's value, or that it was pruned."""
        values = self._values.pop(trial)
        running = self._running.pop(trial)
        if trial in self._pruned:
            self._study.tell(running, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(running, values[-1] if self._prunes else max(values))


def make(
    space: SearchSpace, seed: int, max_epochs: int, *, sampler: str, pruner: str | None = None
) -> Optuna:
    """Return a study with one of Optuna's samplers and pruners, all at their defaults but the resources."""
    samplers = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
    pruners = {
        None: optuna.pruners.NopPruner,
        "hyperband": lambda: optuna.pruners.HyperbandPruner(MIN_EPOCHS, max_epochs, 3),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(MIN_EPOCHS, 3),
    }
    study = optuna.create_study(
        direction="maximize", sampler=samplers[sampler](seed=seed), pruner=pruners[pruner]()
    )
    return Optuna(study, space, max_epochs, prunes=pruner is not None)
