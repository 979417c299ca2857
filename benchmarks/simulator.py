"""Asynchronous workers in simulated time: any ask/tell method on curves known beforehand."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lcbench import Curve, Problem


@dataclass(frozen=True)
class Job:
    """Train epochs ``start + 1 .. stop`` of a trial; a trial keeps its configuration."""

    trial: Hashable
    config: Mapping[str, Any]
    start: int
    stop: int


class Method(Protocol):
    """A hyperparameter search, whoever wrote it. Values are maximised."""

    def ask(self) -> Job | None:
        """Return the next job; None: nothing until a running job reports or ends."""

    def report(self, trial: Hashable, epoch: int, value: float) -> bool:
        """Take the value of a running trial; return whether its job goes on."""

    def complete(self, trial: Hashable) -> None:
        """The trial's job has ended: at its `stop`, or because `report` said so."""


@dataclass
class Trace:
    """What a search has found, after how many epochs of all workers together and after what time.

    Attributes:
        steps: (epochs, seconds, value) at every improvement of the incumbent.
        epochs: trained in all; less than what was granted if the method ended by itself.
        seconds: simulated.
        trials: configurations that were tried.
    """

    steps: list[tuple[int, float, float]] = field(default_factory=list)
    epochs: int = 0
    seconds: float = 0.0
    trials: int = 0

    def value(self, epochs: int) -> float | None:
        """Return the incumbent's value when `epochs` had been trained, None before the first epoch."""
        found = [value for at, _, value in self.steps if at <= epochs]
        return found[-1] if found else None


@dataclass
class _Worker:
    job: Job
    curve: Curve
    epoch: int  # being trained


def simulate(method: Method, problem: Problem, *, workers: int, epochs: int) -> Trace:
    """Let `workers` workers train what `method` asks for until they have trained `epochs` epochs in all.

    The incumbent is the trial with the best value seen so far, at whatever epoch, and that value is what a
    user gets who keeps the checkpoint. An epoch of a trial is paid once: a job that begins before the
    trial's last trained epoch reports what is known at once and for nothing. Nothing is drawn by chance, and
    what ends at the same time is handled in the order of the workers.
    """
    trace = Trace()
    trained: dict[Hashable, int] = {}  # each trial's last epoch
    running: dict[int, _Worker] = {}
    idle = list(range(workers))  # a heap
    ends: list[tuple[float, int]] = []  # heap of (end of the epoch, worker)

    def begin_epoch(number: int) -> None:
        worker = running[number]
        new = worker.epoch > trained[worker.job.trial]
        heapq.heappush(
            ends, (trace.seconds + (worker.curve.seconds[worker.epoch - 1] if new else 0.0), number)
        )

    while trace.epochs < epochs:
        while idle and (job := method.ask()) is not None:
            if any(worker.job.trial == job.trial for worker in running.values()):
                raise RuntimeError(f"trial {job.trial!r} is running already")
            if not trained.get(job.trial, 0) >= job.start < job.stop <= problem.max_epochs:
                raise RuntimeError(f"trial {job.trial!r} can't train epochs {job.start + 1} .. {job.stop}")
            if job.trial not in trained:
                trained[job.trial] = 0
                trace.trials += 1
            number = heapq.heappop(idle)
            running[number] = _Worker(job, problem.curve(job.config), job.start + 1)
            begin_epoch(number)
        if not ends:
            break
        trace.seconds, number = heapq.heappop(ends)
        worker = running[number]
        trial, epoch = worker.job.trial, worker.epoch
        value = float(worker.curve.values[epoch - 1])
        if epoch > trained[trial]:
            trained[trial] = epoch
            trace.epochs += 1
            if not trace.steps or value > trace.steps[-1][2]:
                trace.steps.append((trace.epochs, trace.seconds, value))
        if method.report(trial, epoch, value) and epoch < worker.job.stop:
            worker.epoch += 1
            begin_epoch(number)
        else:
            del running[number]
            heapq.heappush(idle, number)
            method.complete(trial)
    return trace
