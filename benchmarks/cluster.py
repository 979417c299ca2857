"""A cluster of simulated workers: only the training and the clock are made up."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_hpo.launchers.base import (
    Cause,
    CheckpointStored,
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
from mlflow_hpo.launchers.worker import UPLOAD_INTERVAL

PAUSE = 0.001  # seconds of real time between two looks at whether the study has answered
_DIGEST = "0" * 64  # of checkpoints that nobody will load

Curve = Callable[[Mapping[str, Any], int], float]


@dataclass(frozen=True)
class Cluster:
    """What the workers are like; times in simulated seconds.

    Attributes:
        workers: how many.
        node: workers of one node, which are lost together.
        epoch: the median of an epoch's time,
        spread: and the standard deviation of its logarithm.
        stragglers: the share of the workers that are slow,
        slowness: and how many times as long an epoch takes them.
        lifetime: the mean time until a node is lost, exponentially distributed; inf for never.
        absence: how long it stays away.
        seed: of all that is drawn.
    """

    workers: int
    node: int = 8
    epoch: float = 60.0
    spread: float = 0.3
    stragglers: float = 0.05
    slowness: float = 5.0
    lifetime: float = 6 * 3600.0
    absence: float = 600.0
    seed: int = 0


class Intervals:
    """Intervals of time, and how much of them lies before a moment.

    >>> intervals = Intervals()
    >>> intervals.add(0.0, 10.0)
    >>> intervals.add(4.0, 6.0)
    >>> intervals.before(5.0), intervals.before(math.inf)
    (6.0, 12.0)
    """

    def __init__(self) -> None:
        self._begins, self._ends = array("d"), array("d")

    def add(self, begin: float, end: float) -> None:
        """Add one."""
        self._begins.append(begin)
        self._ends.append(end)

    def before(self, moment: float) -> float:
        """Return the sum of what lies before `moment`."""
        begins, ends = np.array(self._begins), np.array(self._ends)
        return float((np.minimum(ends, moment) - np.minimum(begins, moment)).sum())


@dataclass(slots=True)
class _Node:
    slots: list[Slot]
    since: float | None = 0.0  # since when it has been there; None while it is away


@dataclass(slots=True)
class _Running:
    slot: Slot
    job: TrialJob
    begin: float  # of the job,
    since: float  # and of its present epoch
    epoch: int  # the last one that is trained
    sealed: float  # when its last checkpoint was stored
    located: bool  # whether the study can hear of it
    unsafe: float = 0.0  # seconds of training since then
    over: bool = False


class ClusterLauncher(Launcher):
    """Workers that train in simulated time, on nodes that come and go.

    The clock goes on to the next event when the study waits for one. What the study does meanwhile takes its
    time: all processor seconds of this process are added to the clock, those of the search, of the loop and
    of the threads that write to the store, as if one driver did them one after the other. Who waits for the
    driver is idle. Only time in which the process itself waits, as for a disk, is not counted.

    A worker stores its checkpoint as a local one does, every `UPLOAD_INTERVAL` seconds and at the end of a
    job. When its node is lost its job fails as that of a dead worker; tried again it goes on from there.

    Args:
        cluster: what the workers are like.
        curve: the loss of a configuration after so many epochs.
        cpu: processor seconds of this process so far.
    """

    def __init__(self, cluster: Cluster, curve: Curve, cpu: Callable[[], float] = time.process_time) -> None:
        self.slots = [Slot(number, "cuda:0", 1.0) for number in range(cluster.workers)]
        self.now = 0.0  # the driver's present
        self.busy = Intervals()  # of workers that train
        self.available = Intervals()  # of workers that are there
        self.out = math.inf  # when a worker found nothing to do for the first time
        self.trained: dict[int, float] = {}  # trial -> seconds of training
        self.wasted = 0.0  # seconds of training that went with nodes
        self.nodes_lost = self.jobs_lost = 0
        self.jobs = self.reports = 0
        self._cluster = cluster
        self._curve = curve
        self._cpu = cpu
        self._spent = cpu()
        self._epoch_zero = time.time()
        self._rng = np.random.default_rng(cluster.seed)
        slow = self._rng.random(cluster.workers) < cluster.stragglers
        pace = np.where(slow, cluster.slowness, 1.0) * cluster.epoch
        self._epochs: list[float] = pace.tolist()  # each worker's median
        self._free = deque(self.slots)  # and some that have a job again, or are away
        self._running: dict[int, _Running] = {}
        self._at: dict[int, _Running] = {}  # slot number -> what runs there
        self._stored: dict[int, int] = {}  # trial -> epoch of its newest checkpoint
        self._told: list[Event] = []
        self._unheard: set[int] = set()  # trials that told something which the study can only hear later
        self._order = itertools.count()
        self._coming: list[tuple[float, int, _Running | _Node]] = []  # heap: ends of epochs, changes of nodes
        self._nodes = [
            _Node(self.slots[first : first + cluster.node])
            for first in range(0, cluster.workers, cluster.node)
        ]
        for node in self._nodes:
            self._expect_loss(node, 0.0)

    def start(self, trainable: Trainable, services: Services, folder: Path) -> None:
        """Start the clock."""
        self._spent = self._cpu()

    @property
    def free_slot(self) -> Slot | None:
        """A slot without a job, of a node that is there."""
        while self._free and not self._is_free(self._free[0]):
            self._free.popleft()
        return self._free[0] if self._free else None

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Begin a job in `free_slot`, at the newest checkpoint of its trial."""
        if slot is not self.free_slot:
            raise RuntimeError(f"slot {slot.number} is not free")
        self._free.popleft()
        self.jobs += 1
        now = self._charged()
        epoch = self._stored.get(job.trial_id, 0)
        running = _Running(slot, job, now, now, epoch, now, located=job.location != "")
        self._running[job.trial_id] = self._at[slot.number] = running
        self._begin_epoch(running, now)

    def located(self, trial_id: int, location: str, run_id: str) -> None:
        """The study hears of the trial from now on."""
        if (running := self._running.get(trial_id)) is not None:
            running.located = True
        else:
            self._unheard.discard(trial_id)

    def wait(self, timeout: float) -> list[Event]:
        """Return what has happened up to the driver's present, or else what happens next.

        While the study has not heard all that was told, time stands still.
        """
        now = self._charged()
        if not self._told:
            if self._unheard:
                time.sleep(PAUSE)  # its run is being created in another thread
                return []
            idle = self.free_slot is not None
            if idle:
                self.out = min(self.out, now)
            if (self._running or not idle) and (coming := self._next()) < math.inf:
                self.now = now = max(now, coming)
        while self._next() <= now:
            at, _, what = heapq.heappop(self._coming)
            if isinstance(what, _Node):
                self._change(what, at)
            else:
                self._end_epoch(what, at)
        told, self._told = self._told, []
        return told

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Let the job train its next epoch, or end."""
        self._unheard.discard(trial_id)
        if (running := self._running.get(trial_id)) is None:
            return
        now = self._charged()
        if not go_on:
            self._end(running, now, Outcome.STOPPED)
        elif running.epoch == running.job.stop:
            self._end(running, now, Outcome.COMPLETED)
        else:
            if now - running.sealed > UPLOAD_INTERVAL:
                self._store(running, now)
            self._begin_epoch(running, now)

    def interrupt(self, trial_id: int) -> None:
        """End the job in mid-epoch."""
        if (running := self._running.get(trial_id)) is not None:
            self._end(running, self._charged(), Outcome.STOPPED)

    def kill(self, trial_id: int, reason: str) -> None:
        """End the job as a failure."""
        if (running := self._running.get(trial_id)) is not None:
            self._fail(running, self._charged(), reason, Cause.TRAINING)

    def close(self) -> None:
        """Count the nodes that are still there."""
        for node in self._nodes:
            self._leave(node, self.now)

    def _charged(self) -> float:
        """Return the driver's present, with what it has worked since the last look at the clock."""
        spent = self._cpu()
        self.now += spent - self._spent
        self._spent = spent
        return self.now

    def _next(self) -> float:
        """Return when something happens next; inf for never."""
        while self._coming and isinstance(what := self._coming[0][2], _Running) and what.over:
            heapq.heappop(self._coming)  # it will not happen any more
        return self._coming[0][0] if self._coming else math.inf

    # --- jobs

    def _begin_epoch(self, running: _Running, now: float) -> None:
        pace = math.exp(self._rng.normal(0.0, self._cluster.spread))
        running.since = now
        end = now + pace * self._epochs[running.slot.number]
        heapq.heappush(self._coming, (end, next(self._order), running))

    def _end_epoch(self, running: _Running, now: float) -> None:
        trial_id = running.job.trial_id
        running.unsafe += self._train(running, now)
        running.epoch += 1
        self.reports += 1
        loss = self._curve(running.job.params, running.epoch)
        self._told.append(Reported(trial_id, running.epoch, {"loss": loss}, self._epoch_zero + now))
        self._unheard.add(trial_id)

    def _train(self, running: _Running, now: float) -> float:
        """Count the training since the epoch began; return its seconds."""
        trial_id, seconds = running.job.trial_id, now - running.since
        self.busy.add(running.since, now)
        self.trained[trial_id] = self.trained.get(trial_id, 0.0) + seconds
        running.since = now
        return seconds

    def _end(self, running: _Running, now: float, outcome: Outcome) -> None:
        self._store(running, now)
        self._over(running)
        self._told.append(Ended(running.job.trial_id, outcome, now - running.begin))

    def _fail(self, running: _Running, now: float, reason: str, cause: Cause) -> None:
        trial_id = running.job.trial_id
        self._over(running)
        self._told.append(Ended(trial_id, Outcome.FAILED, now - running.begin, reason, cause=cause))
        if running.located:
            self._unheard.discard(trial_id)
        else:
            self._unheard.add(trial_id)

    def _over(self, running: _Running) -> None:
        running.over = True
        del self._running[running.job.trial_id], self._at[running.slot.number]
        self._free.append(running.slot)

    def _store(self, running: _Running, now: float) -> None:
        trial_id, epoch = running.job.trial_id, running.epoch
        running.sealed, running.unsafe = now, 0.0
        if epoch > self._stored.get(trial_id, 0):
            self._stored[trial_id] = epoch
            self._told.append(CheckpointStored(trial_id, epoch, f"epoch-{epoch:04d}.{_DIGEST}.ckpt"))

    # --- nodes

    def _is_free(self, slot: Slot) -> bool:
        node = self._nodes[slot.number // self._cluster.node]
        return node.since is not None and slot.number not in self._at

    def _expect_loss(self, node: _Node, now: float) -> None:
        if self._cluster.lifetime < math.inf:
            until = now + self._rng.exponential(self._cluster.lifetime)
            heapq.heappush(self._coming, (until, next(self._order), node))

    def _leave(self, node: _Node, now: float) -> None:
        """Count the time for which a node was there."""
        if node.since is not None:
            for _ in node.slots:
                self.available.add(node.since, max(node.since, now))
        node.since = None

    def _change(self, node: _Node, now: float) -> None:
        """Lose a node, or have it back."""
        if node.since is None:
            node.since = now
            self._free.extend(node.slots)
            self._expect_loss(node, now)
            return
        self._leave(node, now)
        self.nodes_lost += 1
        for slot in node.slots:
            if (running := self._at.get(slot.number)) is not None:
                self._lose(running, now)
        heapq.heappush(self._coming, (now + self._cluster.absence, next(self._order), node))

    def _lose(self, running: _Running, now: float) -> None:
        self.jobs_lost += 1
        if running.job.trial_id not in self._unheard:  # else it had trained, and waits for its answer
            running.unsafe += self._train(running, now)
        self.wasted += running.unsafe
        self._fail(running, now, "the worker died with its node", Cause.LOST)
