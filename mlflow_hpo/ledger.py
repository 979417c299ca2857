"""Ledger: what a running study knows of its trials beside the search: runs, time, money, checkpoints."""

from __future__ import annotations

import math
import time
from array import array
from concurrent.futures import Future
from dataclasses import dataclass, field

from mlflow_hpo.config import Budget
from mlflow_hpo.launchers.base import Slot
from mlflow_hpo.optimizer import Job
from mlflow_hpo.tracking.jobs import WorkedJob
from mlflow_hpo.tracking.runs import TrialRun


@dataclass(slots=True)
class TrialEntry:
    """One trial's run and what it used. `status` is MLflow's word for what it is doing."""

    job: Job
    slot: Slot
    run: TrialRun | None = None
    coming: Future[TrialRun] | None = None  # its run, while that is on its way
    fresh: bool = True  # nothing is logged to its run before the present job
    status: str = "RUNNING"
    reason: str = ""
    begin: float = 0.0  # of the present job,
    heard: float = 0.0  # and since when what it tells is heard
    alive: float = math.inf  # when its training last gave a sign of life; inf while it waits for us
    attempt: int = 1  # how often it was started, and started again after a failure
    failure: str = ""  # why the attempt before failed, in words
    seconds: float = 0.0  # of the jobs that ended
    jobs: list[WorkedJob] = field(default_factory=list)  # those that ended
    samples: int = 0  # of system metrics
    trained: int = 0  # the epoch that the present job has reached
    reported: int = 0  # the furthest epoch ever reported
    origin: str = ""  # where its configuration comes from, if it is of an earlier study
    infeasible: str = ""  # which constraints its last report broke, in words
    reports: int = 0  # how many epochs it reported
    epochs: array[int] = field(default_factory=lambda: array("q"))  # at which it was feasible,
    values: array[float] = field(default_factory=lambda: array("d"))  # and the metric there
    checkpoints: dict[int, str] = field(default_factory=dict)  # epoch -> name, of those in the store

    @property
    def run_id(self) -> str:
        """Id of its run, "" until it is there."""
        return "" if self.run is None else self.run.run_id

    @property
    def location(self) -> str:
        """Root of its run's artifacts, "" until it is there."""
        return "" if self.run is None else self.run.location

    def arrived(self, run: TrialRun) -> None:
        """Its run is there, and what it tells is heard."""
        self.run, self.coming, self.heard = run, None, time.monotonic()

    def worked(self) -> None:
        """Its present job is over, in its slot."""
        now, worked = time.time(), time.monotonic() - self.begin
        self.jobs.append(WorkedJob(self.slot.number, now - worked, now))

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The feasible values by epoch."""
        return list(zip(self.epochs, self.values, strict=True))


class _Meter:
    """What running jobs have used of something, each some amount a second; no sum over thousands of jobs."""

    def __init__(self) -> None:
        self._jobs = 0
        self._amount = 0.0
        self._amount_times_begin = 0.0

    def add(self, amount: float, begin: float) -> None:
        """Count a job from its begin on."""
        self._jobs += 1
        self._amount += amount
        self._amount_times_begin += amount * begin

    def remove(self, amount: float, begin: float) -> None:
        """Count a job no more."""
        self._jobs -= 1
        self._amount -= amount
        self._amount_times_begin -= amount * begin
        if not self._jobs:  # what is left is an error of rounding
            self._amount = self._amount_times_begin = 0.0

    def until(self, now: float) -> float:
        """Return what the running jobs have used."""
        return self._amount * now - self._amount_times_begin


class Ledger:
    """Books of a study: one entry for each trial, and the sums that budgets look at.

    Args:
        budget: the limits.
        slots: how many trials can run at once.
    """

    def __init__(self, budget: Budget, slots: int) -> None:
        self.trials: dict[int, TrialEntry] = {}
        self.running: set[int] = set()
        self.over: set[int] = set()  # trials that will not go on
        self.epochs = 0
        self._budget = budget
        self._begin = time.monotonic()
        self._gpu_seconds = 0.0  # of the jobs that ended
        self._gpus = _Meter()
        self._slots = slots
        self._driven = self._begin  # since when this driver has slots to fill
        self._busy_seconds = 0.0  # of the jobs that ended since
        self._busy = _Meter()

    def restore(self, *, epochs: int, seconds: float, gpu_hours: float) -> None:
        """Go on from what a study had spent when it was broken off."""
        self.epochs = max(self.epochs, epochs)
        self._begin = time.monotonic() - seconds
        self._gpu_seconds = gpu_hours * 3600
        self._driven, self._busy_seconds = time.monotonic(), 0.0
        for trial_id in self.running:  # they begin only now
            self._begin_now(self.trials[trial_id])

    @property
    def seconds(self) -> float:
        """Wall-clock time of the study, without the time in which nobody drove it."""
        return time.monotonic() - self._begin

    @property
    def gpu_hours(self) -> float:
        """GPU-hours spent, those of running jobs included; a shared GPU counts by its share."""
        return (self._gpu_seconds + self._gpus.until(time.monotonic())) / 3600

    @property
    def utilization(self) -> float:
        """Which share of its slots' time the present driver has had jobs in them, from 0 to 1."""
        now = time.monotonic()
        busy = self._busy_seconds + self._busy.until(now)
        return min(1.0, busy / (self._slots * max(now - self._driven, 1e-9)))

    def started(self, job: Job, slot: Slot) -> TrialEntry:
        """Book a job that was handed to a worker."""
        entry = self.trials.setdefault(job.trial_id, TrialEntry(job, slot))
        entry.job, entry.slot, entry.status = job, slot, "RUNNING"
        self._begin_now(entry)
        entry.alive = math.inf
        entry.trained = max(job.start, entry.reported)  # at most: it may go on from an earlier checkpoint
        self.running.add(job.trial_id)
        self.over.discard(job.trial_id)
        return entry

    def _begin_now(self, entry: TrialEntry) -> None:
        if entry.job.trial_id in self.running:
            self._gpus.remove(entry.slot.gpus, entry.begin)
            self._busy.remove(1.0, entry.begin)
        entry.begin = entry.heard = time.monotonic()
        self._gpus.add(entry.slot.gpus, entry.begin)
        self._busy.add(1.0, entry.begin)

    def trained(self, trial_id: int, epoch: int) -> bool:
        """Book a report of `epoch`; return whether it is news, not an epoch trained for the second time."""
        entry = self.trials[trial_id]
        # a job that lost its checkpoint, or is tried again, begins earlier, and those epochs are spent again
        self.epochs += epoch - entry.trained if epoch > entry.trained else 1
        entry.trained = epoch
        if epoch <= entry.reported:
            return False
        entry.reported = epoch
        entry.reports += 1
        return True

    def ended(self, trial_id: int, seconds: float) -> TrialEntry:
        """Book the end of a trial's job."""
        entry = self.trials[trial_id]
        entry.seconds += seconds
        self._gpu_seconds += seconds * entry.slot.gpus
        self._busy_seconds += seconds
        if trial_id in self.running:
            self.running.remove(trial_id)
            self._gpus.remove(entry.slot.gpus, entry.begin)
            self._busy.remove(1.0, entry.begin)
        return entry

    def infeasible(self) -> list[int]:
        """Return the trials that broke a constraint at their last report, without those that failed."""
        return [
            trial_id
            for trial_id, entry in self.trials.items()
            if entry.infeasible and entry.status != "FAILED"
        ]

    def failures(self) -> list[str]:
        """Return why the trials failed that did, in the order in which they began."""
        return [entry.reason for entry in self.trials.values() if entry.status == "FAILED"]

    def spent(self) -> dict[str, tuple[float, float | None]]:
        """Return what is spent of everything that a budget can limit, and its limit if there is one."""
        budget, gpu_hours = self._budget, self.gpu_hours
        spent: dict[str, tuple[float, float | None]] = {
            "epochs": (self.epochs, budget.epochs),
            "hours": (self.seconds / 3600, budget.hours),
            "gpu_hours": (gpu_hours, budget.gpu_hours),
        }
        if budget.price_per_gpu_hour is not None:
            spent["cost"] = gpu_hours * budget.price_per_gpu_hour, budget.cost
        return spent

    def exhausted(self) -> str:
        """Return which limit of the budget is reached, in words; "" while none is."""
        for name, (used, limit) in self.spent().items():
            if limit is not None and used >= limit:
                return f"budget of {limit:g} {name} is spent"
        return ""
