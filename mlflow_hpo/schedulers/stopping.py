"""What schedulers have in common that train each trial in one job and stop it on the way."""

from __future__ import annotations

from abc import abstractmethod

from mlflow_hpo.schedulers.base import Assignment, Scheduler


class StoppingScheduler(Scheduler):
    """Base of the stopping schedulers: hands out every new trial up to `max_resource`.

    A job either reaches its end or obeys `Decision.STOP`: no trial ever waits.
    """

    def next(self, new_trial_id: int | None) -> Assignment | None:
        """Hand out the new trial."""
        if new_trial_id is None:
            return None
        return Assignment(new_trial_id, 0, self.max_resource, self._begin(new_trial_id))

    @abstractmethod
    def _begin(self, trial_id: int) -> int:
        """Take note of a trial that starts; return its bracket."""

    def close(self) -> None:
        """Nothing waits."""

    @property
    def has_work(self) -> bool:
        """Never: only new trials are handed out."""
        return False
