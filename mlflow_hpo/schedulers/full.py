"""Every trial gets the full resource."""

from __future__ import annotations

from mlflow_hpo.schedulers.base import Assignment, Decision, Scheduler


class FullScheduler(Scheduler):
    """Trains every trial to `max_resource` in one job."""

    def __init__(self, min_resource: int, max_resource: int) -> None:
        self.min_resource = min_resource
        self.max_resource = max_resource
        self.levels = (max_resource,)
        self.eliminated = []

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out the new trial."""
        return None if new_trial_id is None else Assignment(new_trial_id, 0, self.max_resource)

    def report(self, trial_id: int, resource: int, loss: float) -> Decision:
        """Go on."""
        return Decision.CONTINUE

    def complete(self, trial_id: int) -> None:
        """Nothing follows."""

    def fail(self, trial_id: int) -> None:
        """Nothing follows."""

    def close(self) -> None:
        """Nothing waits."""

    @property
    def has_work(self) -> bool:
        """Never: only new trials are handed out."""
        return False
