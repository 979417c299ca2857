"""A trial as trainers with loops of their own train it, epoch by epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mlflow_hpo.trial import Trial, TrialStopped


class TrialEpochs:
    """Where the training of one trial stands.

    Args:
        trial: what the training function got.
        metrics: names of the logged metrics to report; None for all.

    Attributes:
        present: the epoch that is trained; None before the first, and once the training is over.
    """

    def __init__(self, trial: Trial, metrics: Collection[str] | None) -> None:
        self._trial = trial
        self._metrics = metrics
        self._epochs = trial.epochs()
        self.present: int | None = None

    def begin(self) -> None:
        """Go to the first epoch of the job."""
        self.present = next(self._epochs, None)

    def report(self, logged: Mapping[str, Any]) -> None:
        """Report the present epoch and go to the next, if the trial goes on.

        Args:
            logged: all that the trainer has logged of it.
        """
        if self.present is None:
            raise RuntimeError("the training is over")
        wanted = logged.keys() if self._metrics is None else self._metrics
        try:
            self._trial.report(self.present, **{name: logged[name] for name in wanted if name in logged})
        except TrialStopped:
            self.present = None
        else:
            self.begin()
