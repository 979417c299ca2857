"""The worker process of the packed launcher: trains its trials in packs, epoch by epoch.

The main thread trains: each round is one epoch of every trial here. A thread of each new job fetches its
checkpoint meanwhile, so that a slow store stops nobody; the job joins at the next round. A trial's report is
answered between two rounds; one whose answer is late sits out.

A checkpoint is written when a trial ends, pauses, is told to end or is the study's best, and otherwise every
`SAVE_INTERVAL`: to write one each epoch would take longer than to train a small model. So a crash costs so
many seconds at most.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mlflow_hpo.launchers.allocator import keep_freed_memory
from mlflow_hpo.launchers.base import Cause, Ended, Outcome, Sampled, TrialJob
from mlflow_hpo.launchers.pack_limits import PackLimits
from mlflow_hpo.launchers.worker import (
    SAMPLE_INTERVAL,
    WORTH_A_SAMPLE,
    Desk,
    Interrupt,
    Reply,
    WorkerChannel,
    cause_of,
    staging_of,
    told_of,
)
from mlflow_hpo.packing import Packs, Trained
from mlflow_hpo.trial import Trial

SAVE_INTERVAL = 10.0  # seconds between two checkpoints of a trial: what a crash costs
PATIENCE = 0.1  # seconds that a round waits at least for the answers to the one before


class BrokenOff(BaseException):
    """Raised inside an epoch one of whose trials is to end now."""


class EpochInterruption:
    """Breaks an epoch off, but only while a trial is in it that was interrupted."""

    def __init__(self) -> None:
        self._requested: set[int] = set()
        self._in_epoch: frozenset[int] = frozenset()
        signal.signal(signal.SIGUSR1, lambda *_: self._raise_if_requested())

    def request(self, trial_id: int) -> None:
        """Called by the reader thread."""
        self._requested.add(trial_id)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def forget(self, trial_id: int) -> None:
        """A trial's job is over."""
        self._requested.discard(trial_id)

    @contextlib.contextmanager
    def epoch(self, trials: frozenset[int]) -> Iterator[None]:
        """Around the training code."""
        self._in_epoch = trials
        try:
            self._raise_if_requested()
            yield
        finally:
            self._in_epoch = frozenset()

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Around what a channel does, which is never inside an epoch."""
        yield

    def _raise_if_requested(self) -> None:
        if self._in_epoch & self._requested:
            raise BrokenOff


class PackChannel(WorkerChannel):
    """A channel whose reports are answered later; see `hear`."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Send a report, and go on until the answer comes."""
        self.tell(epoch, metrics)
        return True


@dataclass(slots=True)
class Place:
    """A job of this worker, and how far it is."""

    job: TrialJob
    trial: Trial
    channel: PackChannel
    epochs: Iterator[int]
    begin: float
    epoch: int = 0  # the last one that it has trained here
    key: Hashable = None
    member: Any = None  # None until its checkpoint is there
    waits: bool = False  # its report is not answered yet
    interrupted: bool = False
    failure: str = ""  # why it ends once its report is answered
    saved: float = field(default_factory=time.monotonic)
    sample: int = 0  # number of its next sample of the machine

    @property
    def at_stop(self) -> bool:
        """Whether it has trained all that its job asks for."""
        return self.epoch >= self.job.stop


@dataclass(frozen=True, slots=True)
class Probation:
    """The job that comes next may kill its process or hang: it is a pack of its own until it has reported."""

    trial_id: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A job's checkpoint is there, if it has one; or why not."""

    trial_id: int
    begin: float
    checkpoint: Path | None = None
    error: BaseException | None = None


Message = TrialJob | Reply | Interrupt | Probation | Fetched | None


class PackWorker:
    """Serves jobs until the driver closes the pipe.

    Args:
        desk: what every worker has.
        folder: for checkpoints on their way to the trials' folders.
    """

    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk = desk
        self._file = folder / "checkpoint"
        self._packs: Packs[Any] = desk.trainable.packs(desk.setup.device)
        self._limits = PackLimits(desk.setup.device)
        self._interruption = EpochInterruption()
        self._monitor = desk.services.monitor()
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._places: dict[int, Place] = {}  # by trial
        self._on_probation: set[int] = set()
        self._sampled = 0.0
        self._closing = False

    def run(self) -> None:
        """Serve."""
        self._desk.open(self._heard)
        while not self._closing:
            self._take(0.0 if self._ready() else SAMPLE_INTERVAL)
            patience = PATIENCE
            for pack in self._chosen():
                begin = time.monotonic()
                self._train(pack)
                patience = max(patience, time.monotonic() - begin)
            self._await_answers(patience)
            self._sample()

    # --- what comes in

    def _heard(self, message: Any) -> None:
        """Called by the reader thread."""
        if isinstance(message, Interrupt):
            self._interruption.request(message.trial_id)
        self._inbox.put(message)

    def _take(self, patience: float) -> None:
        """Take all messages that are there; wait so many seconds for the first."""
        with contextlib.suppress(queue.Empty):
            self._took(self._inbox.get(timeout=patience) if patience > 0 else self._inbox.get_nowait())
            while True:
                self._took(self._inbox.get_nowait())

    def _took(self, message: Message) -> None:
        match message:
            case None:
                self._closing = True
            case TrialJob():
                self._begin(message)
            case Fetched():
                self._join(message)
            case Reply():
                self._answered(message)
            case Interrupt():
                self._interrupted(message)
            case Probation(trial_id):
                self._on_probation.add(trial_id)

    def _begin(self, job: TrialJob) -> None:
        desk = self._desk
        staging = staging_of(desk.setup.folder, job.trial_id)
        channel = PackChannel(
            *(job, desk.services.checkpoints, desk.locations, staging),
            *(desk.uploader, desk.outbox, queue.SimpleQueue(), self._interruption),
        )
        trial = Trial(job.params, stop=job.stop, seed=job.seed, device=desk.setup.device, channel=channel)
        place = Place(job, trial, channel, trial.epochs(), time.monotonic(), sample=job.sample)
        self._interruption.forget(job.trial_id)
        self._places[job.trial_id] = place
        channel.beat(waits=True)
        threading.Thread(target=self._fetch, args=(place,), daemon=True, name="mlflow-hpo-fetcher").start()

    def _fetch(self, place: Place) -> None:
        """Called in a thread of its own."""
        trial_id, begin = place.job.trial_id, place.begin
        try:
            self._inbox.put(Fetched(trial_id, begin, place.trial.load_checkpoint()))
        except BaseException as error:  # noqa: BLE001 - the main thread tells of it
            self._inbox.put(Fetched(trial_id, begin, error=error))

    def _join(self, fetched: Fetched) -> None:
        place = self._places.get(fetched.trial_id)
        if place is None or place.begin != fetched.begin:  # it was interrupted meanwhile
            return
        try:
            if fetched.error is not None:
                raise fetched.error
            job = place.job
            place.key = self._desk.trainable.pack_key(job.params)
            place.member = self._packs.begin(job.params, job.seed, fetched.checkpoint)
        except BaseException as error:  # noqa: BLE001 - SystemExit of the training code fails its trial, too
            self._fail(place, error)

    def _answered(self, reply: Reply) -> None:
        place = self._places.get(reply.trial_id)
        if place is None or not place.waits:
            return
        place.waits = False
        self._on_probation.discard(reply.trial_id)
        place.channel.hear(reply)
        if place.failure and not place.channel.stopped:
            self._end(place, Outcome.FAILED, f"RuntimeError: {place.failure}")
            return
        stopped = place.channel.stopped or (place.interrupted and not place.at_stop)
        wanted = stopped or place.at_stop or reply.best or time.monotonic() - place.saved > SAVE_INTERVAL
        if wanted and not place.failure and not self._save(place):
            return
        if stopped or place.at_stop:
            self._end(place, Outcome.STOPPED if stopped else Outcome.COMPLETED)
        else:
            place.channel.seal_now_and_then()

    def _interrupted(self, interrupt: Interrupt) -> None:
        place = self._places.get(interrupt.trial_id)
        if place is None or place.job.start != interrupt.start:
            return
        place.interrupted = True
        if place.waits:  # its answer comes, and then it ends
            return
        if place.epoch and not self._save(place):
            return
        self._end(place, Outcome.STOPPED)

    # --- a round

    def _ready(self) -> list[Place]:
        return [place for place in self._places.values() if place.member is not None and not place.waits]

    def _chosen(self) -> list[list[Place]]:
        """Return the packs of this round."""
        by_key: dict[Hashable, list[Place]] = {}
        for place in self._ready():
            by_key.setdefault(self._key(place), []).append(place)
        packs = []
        for key, places in by_key.items():
            size = self._limits.size(key)
            packs += [places[at : at + size] for at in range(0, len(places), size)]
        return packs

    def _key(self, place: Place) -> Hashable:
        trial_id = place.job.trial_id
        alone = trial_id if trial_id in self._on_probation else None
        return place.key, alone

    def _train(self, pack: Sequence[Place]) -> None:
        """Train one epoch of a pack, or of its halves where together they cannot be trained."""
        pack = [place for place in pack if not place.interrupted]
        if not pack:
            return
        members = [place.member for place in pack]
        trials = frozenset(place.job.trial_id for place in pack)
        for place in pack:
            place.channel.beat(waits=False)
        try:
            with self._interruption.epoch(trials), self._limits.measured(self._key(pack[0]), len(pack)):
                done = self._packs.epoch(members)
        except BrokenOff:
            self._take(SAMPLE_INTERVAL)  # the interrupt itself; for the others this epoch has not begun
            return
        except BaseException as error:  # noqa: BLE001
            if _has_lost_its_device(error):
                _give_up()
            if len(pack) == 1:
                self._fail(pack[0], error)
                return
            half = len(pack) // 2
            if cause_of(error) is Cause.RESOURCES:
                self._limits.lacked(self._key(pack[0]), len(pack))
            del error
            self._train(pack[:half])
            self._train(pack[half:])
            return
        for place, trained in zip(pack, done, strict=True):
            self._report(place, trained)

    def _report(self, place: Place, trained: Trained[Any]) -> None:
        try:
            place.epoch = next(place.epochs)
            place.member = trained.member
            if trained.failure:
                place.failure = f"{trained.failure} in epoch {place.epoch}"
            place.waits = True
            place.channel.beat(waits=True)
            place.trial.report(place.epoch, **trained.metrics)
        except Exception as error:  # noqa: BLE001 - a metric that is none
            self._fail(place, error)

    def _await_answers(self, patience: float) -> None:
        """Wait until all reports are answered, but not longer than so many seconds."""
        deadline = time.monotonic() + patience
        while any(place.waits for place in self._places.values()) and time.monotonic() < deadline:
            self._take(deadline - time.monotonic())

    def _save(self, place: Place) -> bool:
        """Write a trial's checkpoint; return whether it lives on."""
        try:
            self._packs.save(place.member, place.epoch, self._file)
            place.trial.save_checkpoint(self._file)
            place.saved = time.monotonic()
        except Exception as error:  # noqa: BLE001 - of the training's code, or the disk is full
            self._fail(place, error)
            return False
        return True

    # --- the end of a job

    def _fail(self, place: Place, error: BaseException) -> None:
        self._end(place, Outcome.FAILED, *told_of(error))

    def _end(
        self,
        place: Place,
        outcome: Outcome,
        reason: str = "",
        details: str = "",
        cause: Cause = Cause.TRAINING,
    ) -> None:
        trial_id = place.job.trial_id
        del self._places[trial_id]
        self._interruption.forget(trial_id)
        self._on_probation.discard(trial_id)
        with contextlib.suppress(OSError):  # a disk that is full, or gone, has cost the job enough
            place.channel.seal_staged()
        with contextlib.suppress(OSError):
            staging_of(self._desk.setup.folder, trial_id).clear()
        seconds = time.monotonic() - place.begin
        if place.sample == place.job.sample and seconds >= WORTH_A_SAMPLE:
            self._send_sample(place, dict(self._monitor.sample()))
        self._desk.outbox.send(Ended(trial_id, outcome, seconds, reason, details, cause))

    def _sample(self) -> None:
        """Tell all trials how the machine does, once in a while."""
        now = time.monotonic()
        if self._places and now - self._sampled > SAMPLE_INTERVAL:
            self._sampled = now
            readings = dict(self._monitor.sample())
            for place in self._places.values():
                self._send_sample(place, readings)

    def _send_sample(self, place: Place, readings: dict[str, float]) -> None:
        self._desk.outbox.send(Sampled(place.job.trial_id, place.sample, readings, time.time()))
        place.sample += 1


def _has_lost_its_device(error: BaseException) -> bool:
    """Whether a GPU takes no more work of this process, whoever's fault that is."""
    return "CUDA error" in str(error) and cause_of(error) is not Cause.RESOURCES


def _give_up() -> NoReturn:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def main(descriptor: int) -> None:
    """Serve jobs until the driver closes the pipe."""
    desk = Desk.at(descriptor)
    if not desk.setup.device.startswith("cuda"):
        keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="pack-", dir=desk.setup.folder) as folder:
        PackWorker(desk, Path(folder)).run()
    desk.leave()
