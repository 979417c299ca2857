"""Any searcher and scheduler of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator import Job

from mlflow_hpo import Decision, History, Optimizer, SearchSpace


class Ours:
    """The `Optimizer`, which speaks the same protocol."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def ask(self) -> Job | None:
        """Ask the optimizer."""
        job = self._optimizer.ask()
        return None if job is None else Job(job.trial_id, job.config, job.start, job.stop)

    def report(self, trial: int, epoch: int, value: float) -> bool:
        """Tell the optimizer."""
        return self._optimizer.report(trial, epoch, value) is Decision.CONTINUE

    def complete(self, trial: int) -> None:
        """Tell the optimizer."""
        self._optimizer.complete(trial)


def make(
    space: SearchSpace,
    seed: int,
    max_epochs: int,
    *,
    searcher: Any,
    scheduler: Any,
    min_epochs: int,
    history: History | None = None,
    features: Mapping[str, float] | None = None,
) -> Ours:
    """Return a search with a searcher and a scheduler by their names, told of other tasks or of none."""
    return Ours(
        Optimizer(
            space,
            mode="max",
            searcher=searcher,
            scheduler=scheduler,
            min_resource=min_epochs,
            max_resource=max_epochs,
            seed=seed,
            history=history,
            task={"features": features},
        )
    )
