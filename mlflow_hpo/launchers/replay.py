"""Replay: tells what a study's trials did before, and lets another launcher run what is not recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow_hpo.launchers.base import (
    Ended,
    Event,
    Launcher,
    Outcome,
    Reported,
    Services,
    Slot,
    TrialJob,
)
from mlflow_hpo.recording import RecordedTrial, Report


@dataclass(slots=True)
class _Replayed:
    """A job in a slot whose trial has a record."""

    slot: Slot
    job: TrialJob
    trial: RecordedTrial
    reports: list[Report]  # still to be told, the last one first
    told_to_stop: bool = False


class ReplayLauncher(Launcher):
    """Stands before another launcher, and answers from the record wherever there is one.

    Jobs of which nothing, or not all, is recorded wait until no running one has anything left to tell; then
    the other launcher starts, and they go on from their last checkpoints. So a search is gone through again
    in the order in which it happened, as far as it is known, and within seconds.

    As it takes no slot to tell of a job, there are `extra_slot`s: what is not recorded of a job in one of
    them is left unfinished.

    Args:
        launcher: the one that runs what is not recorded.
        trials: the record; a trial whose run tells more than the epochs of one job is told job by job.
        live: called once, just before the other launcher starts.
    """

    def __init__(
        self, launcher: Launcher, trials: Mapping[int, RecordedTrial], live: Callable[[], None]
    ) -> None:
        self.slots = launcher.slots
        self.trials_log = launcher.trials_log
        self._launcher = launcher
        self._trials = dict(trials)
        self._live = live
        self._start: Callable[[], None] | None = None  # of the other launcher, until it has started
        self._replayed: dict[int, _Replayed] = {}  # slot number -> job
        self._waiting: dict[int, tuple[Slot, TrialJob]] = {}  # slot number -> job, until then

    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Take note of what the other launcher will need."""
        self._start = lambda: self._launcher.start(trainable, services, folder)

    @property
    def at_end(self) -> bool:
        """Whether everything is told of the jobs handed in, and the other launcher is about to start."""
        return self._start is not None and not self._replayed

    def extra_slot(self, trial_id: int) -> Slot:
        """Return a slot beyond those that there are, to tell of a trial."""
        return replace(self.slots[0], number=-1 - trial_id)

    @property
    def free_slot(self) -> Slot | None:
        """A slot in which neither launcher has a job."""
        if self._start is not None:
            return next((slot for slot in self.slots if not self._is_taken(slot)), None)
        free = self._launcher.free_slot
        if free is None or free.number not in self._replayed:
            return free
        return None  # an event of the record comes at once, and frees it

    def slot_for(self, params: Mapping[str, Any]) -> Slot:
        """Return the slot that the other launcher chooses, once all is told."""
        if self._start is None and not self._replayed:
            return self._launcher.slot_for(params)
        return super().slot_for(params)

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Begin to tell of a job, or hand it on."""
        trial = self._trials.get(job.trial_id)
        if trial is None or not _has_more(trial, job):
            self._hand_on(slot, job)
            return
        reports = trial.reports.after(job.start, job.stop)
        self._replayed[slot.number] = _Replayed(slot, job, trial, reports[::-1])

    def located(self, trial_id: int, location: str, run_id: str) -> None:
        """Say where the checkpoints of a trial live that is not recorded."""
        for number, (slot, job) in self._waiting.items():
            if job.trial_id == trial_id:
                self._waiting[number] = slot, replace(job, location=location, run_id=run_id)
                return
        self._launcher.located(trial_id, location, run_id)

    def wait(self, timeout: float) -> list[Event]:
        """Return the next event of the record, or what the other launcher tells."""
        while self._replayed:
            played = min(self._replayed.values(), key=_next_time)
            event = self._next(played)
            if event is not None:
                return [event]
        if self._start is not None and (put_off := self._go_live()):
            return put_off
        return self._launcher.wait(timeout)

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Answer a report."""
        played = self._played(trial_id)
        if played is None:
            self._launcher.reply(trial_id, go_on=go_on, best=best)
        else:
            played.told_to_stop = not go_on

    def interrupt(self, trial_id: int) -> None:
        """Ask a trial to end; one that is being told ends at its next report anyway."""
        if self._played(trial_id) is None and self._start is None:
            self._launcher.interrupt(trial_id)

    def kill(self, trial_id: int, reason: str) -> None:
        """End a running trial by force."""
        if self._played(trial_id) is None and self._start is None:
            self._launcher.kill(trial_id, reason)

    @property
    def uploads(self) -> int:
        """How many checkpoints are on their way to the store."""
        return self._launcher.uploads

    def drain(self, timeout: float) -> list[Event]:
        """Wait for the other launcher's checkpoints."""
        return self._launcher.drain(timeout)

    def forget(self, trial_id: int) -> None:
        """Let go of the local copies of a trial that will not go on."""
        if self._start is None:  # before, there are none
            self._launcher.forget(trial_id)

    def close(self) -> None:
        """Close the other launcher."""
        self._launcher.close()

    def _is_taken(self, slot: Slot) -> bool:
        return slot.number in self._replayed or slot.number in self._waiting

    def _played(self, trial_id: int) -> _Replayed | None:
        return next((each for each in self._replayed.values() if each.job.trial_id == trial_id), None)

    def _next(self, played: _Replayed) -> Event | None:
        """Return what comes next of a job; None where it goes on elsewhere."""
        job, trial = played.job, played.trial
        if played.reports and not played.told_to_stop:
            report = played.reports.pop()
            return Reported(job.trial_id, report.epoch, dict(report.metrics), report.time)
        del self._replayed[played.slot.number]
        over = trial.reached <= job.stop
        seconds = trial.seconds if over else 0.0
        if played.told_to_stop:
            return Ended(job.trial_id, Outcome.STOPPED, seconds)
        if over and trial.failed:
            del self._trials[job.trial_id]  # it is told
            return Ended(job.trial_id, Outcome.FAILED, seconds, trial.reason)
        if _completed(trial, job):
            if over and trial.rung <= job.rung:  # it is told
                del self._trials[job.trial_id]
            return Ended(job.trial_id, Outcome.COMPLETED, seconds)
        if played.slot.number < 0:
            del self._trials[job.trial_id]  # it is told
            return Ended(job.trial_id, Outcome.UNFINISHED, 0.0)
        self._hand_on(played.slot, job)
        return None

    def _hand_on(self, slot: Slot, job: TrialJob) -> None:
        if (trial := self._trials.get(job.trial_id)) is not None:
            reached = max(job.reached, trial.reached)
            job = replace(job, sample=max(job.sample, trial.samples), reached=reached)
        if self._start is None:
            self._launcher.submit(slot, job)
        else:
            self._waiting[slot.number] = slot, job

    def _go_live(self) -> list[Event]:
        """Start the other launcher with the jobs that wait; those that it has no slot for yet are put off."""
        self._live()
        start, self._start = self._start, None
        if start is not None:
            start()
        put_off: list[Event] = []
        for _, job in self._waiting.values():
            self._trials.pop(job.trial_id, None)  # it is told
            if (free := self._launcher.free_slot) is not None:
                self._launcher.submit(free, job)
            else:
                put_off.append(Ended(job.trial_id, Outcome.UNFINISHED, 0.0))
        self._waiting.clear()
        return put_off


def _has_more(trial: RecordedTrial, job: TrialJob) -> bool:
    """Whether there is anything to tell of a job."""
    return trial.reached > job.start or (trial.failed and trial.rung == job.rung)


def _completed(trial: RecordedTrial, job: TrialJob) -> bool:
    """Whether a job is known to have come to its end: its checkpoint is safe, if there ever was one."""
    if trial.reached > job.stop or trial.rung > job.rung:
        return True
    return trial.reached == job.stop and (trial.status != "RUNNING" or job.stop in trial.checkpoints)


def _next_time(played: _Replayed) -> float:
    """When the next event of a job happened; its end comes right after its last report."""
    return played.reports[-1].time if played.reports else 0.0
