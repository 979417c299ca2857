"""A scheduler: who gets how many epochs."""

from __future__ import annotations

from bisect import insort

from mlflow_hpo.schedulers import Decision
from mlflow_hpo.schedulers.stopping import StoppingScheduler


class HalfwayScheduler(StoppingScheduler):
    """Stops a trial halfway if it is not among the better half of those that got there.

    Args:
        min_resource, max_resource: as every scheduler gets them.
    """

    def __init__(self, min_resource: int, max_resource: int) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self._half = max(min_resource, max_resource // 2)
        self.levels = tuple(sorted({self._half, max_resource}))
        self.eliminated = []
        self._losses: list[float] = []  # of those that got there, ascending

    def _begin(self, trial_id: int) -> int:
        return 0  # there is one bracket

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Compare the trial with the others if it is halfway."""
        if resource != self._half or resource == self.max_resource:
            return Decision.CONTINUE
        insort(self._losses, loss)
        middle = self._losses[(len(self._losses) - 1) // 2]
        return Decision.STOP if loss > middle else Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Its job is over; its loss stays."""

    def fail(self, trial_id: int) -> None:
        """Likewise."""
