"""SMAC3's multi-fidelity facade: random forests and Hyperband."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ConfigSpace import Configuration, ConfigurationSpace, Float, Integer
from simulator import Job
from smac import MultiFidelityFacade, Scenario
from smac.runhistory.dataclasses import TrialInfo, TrialValue

from methods import MIN_EPOCHS
from mlflow_hpo import SearchSpace


class Smac:
    """The facade by ask and tell; a budget that goes on from a lower one pays for the new epochs only."""

    def __init__(self, facade: MultiFidelityFacade) -> None:
        self._facade = facade
        self._numbers: dict[Configuration, int] = {}
        self._trained: dict[int, int] = {}
        self._asked: dict[int, TrialInfo] = {}
        self._value: dict[int, float] = {}

    def ask(self) -> Job:
        """Ask for a configuration and a budget, which is rounded to whole epochs."""
        info = self._facade.ask()
        trial = self._numbers.setdefault(info.config, len(self._numbers))
        stop = round(info.budget)
        start = min(self._trained.get(trial, 0), stop - 1)
        self._asked[trial] = info
        return Job(trial, dict(info.config), start, stop)

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Remember the value."""
        self._trained[trial] = max(epoch, self._trained.get(trial, 0))
        self._value[trial] = value
        return True

    def complete(self, trial: int) -> None:
        """Tell the last value as a cost."""
        self._facade.tell(self._asked.pop(trial), TrialValue(cost=-self._value[trial]), save=False)


def make(space: SearchSpace, seed: int, max_epochs: int) -> Smac:
    """Return the facade at its defaults."""
    written = ConfigurationSpace(seed=seed)
    for name, each in space.items():
        kind = Integer if each.type == "int" else Float
        written.add(kind(name, (each.low, each.high), log=each.log))
    scenario = Scenario(
        written,
        output_directory=Path(tempfile.mkdtemp(prefix="smac-")),
        deterministic=True,
        n_trials=100_000,
        min_budget=MIN_EPOCHS,
        max_budget=max_epochs,
        seed=seed,
    )
    facade = MultiFidelityFacade(scenario, _never_called, overwrite=True, logging_level=False)
    return Smac(facade)


def _never_called(config: Configuration, seed: int = 0, budget: float = 0) -> float:
    raise AssertionError("SMAC is driven by ask and tell")
