"""What all searches share that train every trial to the end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from simulator import Job

from mlflow_hpo.space import Config


class FullTrainings(ABC):
    """Trains each proposal to the end and tells its best value, which is what the user would keep."""

    def __init__(self, max_epochs: int) -> None:
        self._max_epochs = max_epochs
        self._started = 0
        self._best: dict[int, float] = {}  # of the running trials

    def ask(self) -> Job:
        """Start a trial."""
        trial = self._started
        self._started += 1
        return Job(trial, self.propose(trial), 0, self._max_epochs)

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Remember the best value."""
        self._best[trial] = max(value, self._best.get(trial, value))
        return True

    def complete(self, trial: int) -> None:
        """Tell the method."""
        self.learn(trial, self._best.pop(trial))

    @abstractmethod
    def propose(self, trial: int) -> Config:
        """Return the configuration of a new trial."""

    def learn(self, trial: int, value: float) -> None:  # noqa: B027 - need not learn
        """Take the value of a trial."""
