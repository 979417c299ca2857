"""Launchers whose trials take no time, or a known one: the rest is what the study itself costs."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from mlflow_hpo.launchers.base import (
    Ended,
    Event,
    Launcher,
    Outcome,
    Reported,
    Services,
    Slot,
    Trainable,
    TrialJob,
)


def value(x: float, epoch: int) -> float:
    """Return the loss of a configuration after `epoch` epochs."""
    return (x - 0.3) ** 2 + 1 / epoch


@dataclass(slots=True)
class _Running:
    slot: Slot
    job: TrialJob
    epoch: int
    stopped: bool = False


class InstantLauncher(Launcher):
    """Each job reports one epoch after the other, as quickly as it is answered, in turn with the others."""

    def __init__(self, workers: int) -> None:
        self.slots = [Slot(number, "cpu", 0.0) for number in range(workers)]
        self._free = deque(self.slots)
        self._running: dict[int, _Running] = {}
        self._turns: deque[_Running] = deque()

    def start(self, trainable: Trainable, services: Services, folder: Path) -> None:
        """Nothing is needed."""

    @property
    def free_slot(self) -> Slot | None:
        """A slot without a job."""
        return self._free[0] if self._free else None

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Let a job take its turn."""
        self._free.remove(slot)
        self._running[job.trial_id] = running = _Running(slot, job, job.start)
        self._turns.append(running)

    def wait(self, timeout: float) -> list[Event]:
        """Return the next event of the job whose turn it is."""
        if not self._turns:
            return []
        running = self._turns.popleft()
        job = running.job
        if running.stopped or running.epoch == job.stop:
            del self._running[job.trial_id]
            self._free.append(running.slot)
            return [Ended(job.trial_id, Outcome.STOPPED if running.stopped else Outcome.COMPLETED, 0.01)]
        running.epoch += 1
        self._turns.append(running)
        loss = value(job.params["x"], running.epoch)
        return [Reported(job.trial_id, running.epoch, {"loss": loss}, time.time())]

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Let the job go on or end."""
        if (job := self._running.get(trial_id)) is not None:  # else it is over
            job.stopped = not go_on

    def interrupt(self, trial_id: int) -> None:
        """End the job at its next turn."""
        self._running[trial_id].stopped = True

    def kill(self, trial_id: int, reason: str) -> None:
        """End the job at its next turn."""
        self._running[trial_id].stopped = True

    def close(self) -> None:
        """Nothing is left behind."""


class SleepingLauncher(InstantLauncher):
    """One worker, whose epochs take `seconds` each; `slept` is what they took together."""

    seconds = 0.1

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.slept = 0.0

    def wait(self, timeout: float) -> list[Event]:
        """Return the next event, after the time that its epoch takes."""
        if self._turns and not self._turns[0].stopped and self._turns[0].epoch < self._turns[0].job.stop:
            begin = time.monotonic()
            time.sleep(self.seconds)
            self.slept += time.monotonic() - begin
        return super().wait(timeout)
