"""A trial as trainers with loops of their own train it, epoch by epoch."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Collection, Mapping
from typing import Any

from mlflow_hpo.trial import Trial, TrialStopped, is_metric_name

logger = logging.getLogger(__name__)


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
        self._left_out: set[str] = set()
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
        if self._metrics is None:
            told = self._metrics_among(logged)
        else:
            told = {name: logged[name] for name in self._metrics if name in logged}
        try:
            self._trial.report(self.present, **told)
        except TrialStopped:
            self.present = None
        else:
            self.begin()

    def _metrics_among(self, logged: Mapping[str, Any]) -> dict[str, Any]:
        """Return what can be reported of all that a trainer has logged; say once what cannot."""
        told = {name: value for name, value in logged.items() if is_metric_name(name) and _is_number(value)}
        if new := logged.keys() - told.keys() - self._left_out:
            self._left_out |= new
            logger.warning("not reported, as it is no number or has another name: %s", ", ".join(sorted(new)))
        return told


def _is_number(value: Any) -> bool:
    """Whether a value is a number, or an array or tensor of one."""
    return isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0
