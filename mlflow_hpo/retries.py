"""Retries: which jobs are handed out again, and when."""

from __future__ import annotations

import math
import time
from operator import itemgetter

from mlflow_hpo.launchers.base import Cause, Ended
from mlflow_hpo.ledger import TrialEntry
from mlflow_hpo.optimizer import Job

PAUSE = 10.0  # seconds after which memory, disk or network may be there that a job lacked


class Retries:
    """Has jobs tried again that failed through no fault of their training, as often as the user allows.

    A job whose process died or hung is tried again, and so is one that lacked memory, disk or network, unless
    it lacked the same thing at the same epoch the time before: that will not go away. What the training
    itself raises would be raised again. A job that is tried again goes first when a slot is free; one that
    lacked something waits a little before, so that others may free it.

    Args:
        limit: how often a trial is tried again over its whole life.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[tuple[float, Job]] = []  # not before which time, and what
        self._hung: set[int] = set()  # trials that are killed because they gave no sign of life
        self._lacked: dict[int, tuple[str, int]] = {}  # trial -> what its last attempt lacked, at which epoch

    def hung(self, trial_id: int) -> None:
        """Note that a trial is killed because it hangs."""
        self._hung.add(trial_id)

    def cause(self, ended: Ended) -> Cause:
        """Return what made a job fail, now that it is over; it counts only if it did fail."""
        hung = ended.trial_id in self._hung
        self._hung.discard(ended.trial_id)
        return Cause.LOST if hung else ended.cause

    def take(self, cause: Cause, reason: str, entry: TrialEntry) -> bool:
        """Take a failed job; return whether it will be tried again.

        Args:
            cause, reason: of its failure.
            entry: its trial.
        """
        if cause is Cause.TRAINING or entry.attempt > self._limit:
            return False
        if cause is Cause.RESOURCES:
            trial_id, lacked = entry.job.trial_id, (reason.partition(":")[0], entry.trained)
            before, self._lacked[trial_id] = self._lacked.get(trial_id), lacked
            if lacked == before:
                return False
        pause = PAUSE if cause is Cause.RESOURCES else 0.0
        self._waiting.append((time.monotonic() + pause, entry.job))
        return True

    def put_off(self, job: Job) -> None:
        """Take a job that is not finished, to be handed out again."""
        self._hung.discard(job.trial_id)
        self._waiting.append((time.monotonic(), job))

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def next(self) -> Job | None:
        """Return the job that has waited longest for its turn, and waits no more; None if there is none."""
        due, job = min(self._waiting, key=itemgetter(0), default=(math.inf, None))
        if job is None or due > time.monotonic():
            return None
        self._waiting.remove((due, job))
        return job

    def give_up(self) -> list[int]:
        """Return the trials whose jobs wait, which will not be tried again."""
        trials = [job.trial_id for _, job in self._waiting]
        self._waiting.clear()
        return trials
