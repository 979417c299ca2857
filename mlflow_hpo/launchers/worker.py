"""The worker process of the local launcher: takes jobs from a pipe, trains, tells what happened.

The main thread trains; an uploader thread stores checkpoints meanwhile, also when their job is over. A reader
thread owns the receiving end of the pipe: it hands jobs and replies to the main thread, raises `TrialStopped`
inside the training code on an interrupt, and ends the process when the driver is gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, Protocol

import cloudpickle

from mlflow_hpo.errors import CorruptCheckpointError, StoreAwayError
from mlflow_hpo.launchers.base import (
    Cause,
    CheckpointStore,
    Ended,
    Event,
    Heartbeat,
    Monitor,
    Outcome,
    Reported,
    Sampled,
    Services,
    Trainable,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.early_return import returned_early
from mlflow_hpo.launchers.gpu_gauge import GpuGauge, GpuMemory
from mlflow_hpo.launchers.staging import Staging
from mlflow_hpo.launchers.uploader import Message, Upload, Uploader
from mlflow_hpo.trial import Trial, TrialStopped

UPLOAD_INTERVAL = 60.0  # seconds: what a crash costs at most, beside the present epoch
SAMPLE_INTERVAL = 1.0  # seconds between two samples of the system metrics
WORTH_A_SAMPLE = 0.5  # seconds from which on a job gets one at its end, if it had none before
DETAILS = 4_000  # characters of a traceback that are worth keeping in a tag
LAST_UPLOADS = 30.0  # seconds that a worker goes on storing what is queued when its driver is gone
FETCH_PATIENCE = 6 * 3600.0  # seconds that a trial waits for its checkpoint when the store is away
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between two tries of that; they double


@dataclass(frozen=True, slots=True)
class Setup:
    """First message of the driver."""

    payload: bytes  # cloudpickle of (trainable, services)
    device: str
    folder: str
    check: bool = False  # whether this machine reaches the stores


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a `Reported`."""

    trial_id: int
    go_on: bool
    best: bool


@dataclass(frozen=True, slots=True)
class Located:
    """Where the checkpoints of a trial live whose job has begun, and which run is its."""

    trial_id: int
    location: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Interrupt:
    """End the job of this trial that began at epoch `start` now; of no effect once it is over."""

    trial_id: int
    start: int


@dataclass(frozen=True, slots=True)
class Inherit:
    """Store what a dead worker had still to store."""

    uploads: tuple[Upload, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """First message of the worker: the trainable is loaded."""


def staging_of(folder: str | Path, trial_id: int) -> Staging:
    """Return the place of a trial's checkpoint files below a launcher's folder."""
    return Staging(Path(folder) / f"trial-{trial_id:04d}")


class Outbox:
    """The sending end of the pipe, shared by all threads of the worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Event | Message | Ready | GpuMemory) -> None:
        """Send one message whole."""
        with self._lock:
            self._connection.send(message)


class Interruption:
    """Raises `TrialStopped` in the main thread, but only while the right job's training code runs there."""

    def __init__(self) -> None:
        self._requested: Interrupt | None = None
        self._job: Interrupt | None = None
        self._in_training = False
        signal.signal(signal.SIGUSR1, self._on_signal)

    def request(self, interrupt: Interrupt) -> None:
        """Called by the reader thread."""
        self._requested = interrupt
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _on_signal(self, *_: object) -> None:
        if self._in_training:
            self._raise_if_requested()

    def _raise_if_requested(self) -> None:
        if self._requested == self._job:
            raise TrialStopped

    @contextlib.contextmanager
    def training(self, job: TrialJob) -> Iterator[None]:
        """Around the training code of `job`."""
        self._job = Interrupt(job.trial_id, job.start)
        self._in_training = True
        try:
            self._raise_if_requested()
            yield
        finally:
            self._in_training = False

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Around our own code that training code calls: an interrupt waits until it is through."""
        self._in_training = False
        try:
            yield
        finally:
            self._in_training = True
        self._raise_if_requested()


class Locations:
    """The runs of trials, and where their checkpoints live; jobs may begin before that is known."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._known: dict[int, Located] = {}

    def begin(self, job: TrialJob) -> None:
        """Take note of a new job. Called by the reader thread, in the order of the pipe."""
        self.put(Located(job.trial_id, job.location, job.run_id))

    def put(self, located: Located) -> None:
        """Take note of the location of a trial; "" if it is not known yet."""
        with self._changed:
            self._known[located.trial_id] = located
            self._changed.notify_all()

    def wait(self, trial_id: int) -> Located:
        """Return a trial's location and run, once they are known."""
        with self._changed:
            self._changed.wait_for(lambda: self._known[trial_id].location)
            return self._known[trial_id]


class Shield(Protocol):
    """Keeps interrupts off our own code."""

    def shielded(self) -> AbstractContextManager[None]:
        """Around our own code that training code calls: an interrupt waits until it is through."""


class WorkerChannel:
    """The channel of one job: staging of checkpoints on local disk, reports through the pipe."""

    def __init__(
        self,
        job: TrialJob,
        open_store: Callable[[str], CheckpointStore],
        locations: Locations,
        staging: Staging,
        uploader: Uploader,
        outbox: Outbox,
        replies: queue.SimpleQueue[Reply],
        interruption: Shield,
    ) -> None:
        self._job = job
        self._open_store = open_store
        self._locations = locations
        self._staging = staging
        self._uploader = uploader
        self._outbox = outbox
        self._replies = replies
        self._interruption = interruption
        self._staged: set[int] = set()  # epochs: at most the newest, the one before and the study's best
        self._sealed = 0  # the newest epoch that was sealed
        self._told = 0  # the last epoch that was sent
        self._best = 0
        self._last_sealed = time.monotonic()
        self.reached = job.start
        self.reported: set[str] = set()  # names of metrics
        self.stopped = False  # told to end; the training code may not have noticed

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Ask the driver whether to go on."""
        if self.stopped:
            return False
        with self._interruption.shielded():
            self.tell(epoch, metrics)
            self.hear(self._replies.get())
        if not self.stopped:
            self.seal_now_and_then()
        return not self.stopped

    def tell(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Send a report."""
        self.reached = max(self.reached, epoch)
        self.reported.update(metrics)
        self._told = epoch
        self._outbox.send(Reported(self._job.trial_id, epoch, dict(metrics), time.time()))

    def hear(self, reply: Reply) -> None:
        """Take the answer to the last report."""
        if reply.best:
            self._best = self._told
        self._drop_staged()
        self.stopped = not reply.go_on

    def seal_now_and_then(self) -> None:
        """Have the newest checkpoint stored if the last time is long ago."""
        if time.monotonic() - self._last_sealed > UPLOAD_INTERVAL:
            with self._ours():
                self.seal_staged()

    def save(self, epoch: int, path: Path) -> None:
        """Copy the checkpoint to the staging folder; from there it is stored once its epoch is reported."""
        with self._ours():
            try:
                self._staging.stage(epoch, path)
            except OSError as error:
                where = f"cannot keep the checkpoint of epoch {epoch} on this machine"
                raise OSError(error.errno, f"{where}: {error.strerror or error}") from error
            self._staged.add(epoch)

    def load(self) -> tuple[int, Path] | None:
        """Return the newest checkpoint of a reported epoch that is intact, from this machine if it is here;
        wait while the store is away.
        """
        if self._reported_before == 0:
            return None
        pause, deadline = FIRST_PAUSE, time.monotonic() + FETCH_PATIENCE
        while True:
            with self._ours():
                try:
                    return self._find()
                except StoreAwayError as error:
                    if time.monotonic() > deadline:
                        raise
                    if pause == FIRST_PAUSE:
                        self._warn(f"the artifact store is away, waiting for the checkpoint: {error}")
            self.beat(waits=True)
            time.sleep(pause)  # an interrupt ends it
            pause = min(2 * pause, LONGEST_PAUSE)

    def run_id(self) -> str:
        """Return the id of the trial's run, once it is created."""
        self.beat(waits=True)
        try:
            return self._locations.wait(self._job.trial_id).run_id
        finally:
            self.beat(waits=False)

    def seal_staged(self) -> None:
        """Have the newest checkpoint, and the one of the study's best epoch, stored.

        The newest is that of an epoch that was reported: whoever goes on from it has nothing to report that
        was trained before.
        """
        newest = self._newest
        for epoch in sorted({newest, self._best} & self._staged):
            self._seal(epoch, newest=epoch == newest > self._sealed)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Around the training code."""
        self.beat(waits=False)
        try:
            yield
        finally:
            self.beat(waits=True)

    @contextlib.contextmanager
    def _ours(self) -> Iterator[None]:
        """Around our own code that training code calls, and waits for."""
        with self._interruption.shielded():
            self.beat(waits=True)
            try:
                yield
            finally:
                self.beat(waits=False)

    def beat(self, *, waits: bool) -> None:
        """Give a sign of life; see `Heartbeat`."""
        if self._job.watched:
            self._outbox.send(Heartbeat(self._job.trial_id, waits))

    @property
    def _newest(self) -> int:
        """The last reported epoch whose checkpoint is staged; 0 without any."""
        return max((epoch for epoch in self._staged if epoch <= self.reached), default=0)

    @property
    def _reported_before(self) -> int:
        """The furthest epoch that was reported before this job, or before this attempt at it."""
        return max(self._job.start, self._job.reached)

    def _find(self) -> tuple[int, Path] | None:
        start, stop = self._job.start, min(self._job.stop, self._reported_before + 1)
        here = [(epoch, path) for epoch, path in self._staging.sealed() if epoch < stop]
        for epoch, path in here:
            # an older one is from before this trial was elsewhere: the store may have a newer one
            if epoch >= start and (copy := self._copied(epoch, path)) is not None:
                return epoch, copy
        store = self._open_store(self._locations.wait(self._job.trial_id).location)
        for epoch, name in store.names():
            if epoch >= stop:
                continue
            try:
                return epoch, store.download(name, self._staging.folder)
            except CorruptCheckpointError as error:
                self._warn(f"checkpoint of epoch {epoch} is corrupt, going on from the one before: {error}")
        for epoch, path in here:
            if epoch < start and (copy := self._copied(epoch, path)) is not None:
                return epoch, copy
        if start:  # in the first job of a trial there may be none yet
            self._warn(f"no intact checkpoint for epoch {start}: training from scratch")
        return None

    def _copied(self, epoch: int, path: Path) -> Path | None:
        """Return a copy of a file on this machine that the training may change; None if it is not intact."""
        try:
            return self._staging.fetch(path)
        except FileNotFoundError:
            return None
        except CorruptCheckpointError as error:
            path.unlink(missing_ok=True)  # nor must it be stored
            self._warn(
                f"the local copy of the checkpoint of epoch {epoch} is corrupt, looking further: {error}"
            )
            return None

    def _seal(self, epoch: int, *, newest: bool) -> None:
        trial_id = self._job.trial_id
        location = self._locations.wait(trial_id).location
        path = self._staging.seal(epoch)
        self._staged.discard(epoch)
        self._last_sealed = time.monotonic()
        self._sealed = max(self._sealed, epoch)
        self._uploader.add(Upload(trial_id, location, epoch, path, path.stat().st_size, newest))

    def _drop_staged(self) -> None:
        for epoch in self._staged - {self._newest, self._best}:
            self._staged.discard(epoch)
            self._staging.drop(epoch)

    def _warn(self, message: str) -> None:
        self._outbox.send(Warned(self._job.trial_id, message))


class Sampler:
    """Samples the machine in a thread of its own while a job runs; `begin` is of the monotonic clock."""

    def __init__(
        self, monitor: Monitor, gauge: GpuGauge, job: TrialJob, begin: float, outbox: Outbox
    ) -> None:
        self._monitor = monitor
        self._gauge = gauge
        self._job = job
        self._begin = begin
        self._outbox = outbox
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-hpo-sampler")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = self._job.sample
        while True:
            over = self._over.wait(SAMPLE_INTERVAL)
            short = over and time.monotonic() - self._begin < WORTH_A_SAMPLE
            # a job shorter than the interval gets one sample all the same
            if not over or number == self._job.sample:
                readings = {} if short else dict(self._monitor.sample())
                if (memory := self._gauge.read()) is not None:
                    readings["system/gpu_memory_peak_megabytes"] = memory.peak / 1e6
                    self._outbox.send(memory)
                if readings:
                    self._outbox.send(Sampled(self._job.trial_id, number, readings, time.time()))
                    number += 1
            if over:
                return


def cause_of(error: BaseException) -> Cause:
    """Return whether what a training raised is its own fault, or that of the machine at that moment.

    >>> cause_of(ValueError("momentum must be positive")), cause_of(OSError(28, "No space left on device"))
    (<Cause.TRAINING: 'training'>, <Cause.RESOURCES: 'resources'>)
    """
    if isinstance(error, OSError | MemoryError | StoreAwayError):
        return Cause.RESOURCES
    # PyTorch and others have types of their own for it, which need not be imported for this
    told = f"{type(error).__name__}: {error}".lower().replace(" ", "")
    signs = ("outofmemory", "resourceexhausted", "resource_exhausted", "killedbysignal")
    return Cause.RESOURCES if any(sign in told for sign in signs) else Cause.TRAINING


def told_of(error: BaseException) -> tuple[str, str, Cause]:
    """Return reason, details and cause, as `Ended` has them, of what a training raised."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    return reason, "".join(traceback.format_exception(error))[-DETAILS:], cause_of(error)


def run_job(
    job: TrialJob,
    trainable: Trainable,
    services: Services,
    setup: Setup,
    locations: Locations,
    uploader: Uploader,
    outbox: Outbox,
    replies: queue.SimpleQueue[Reply],
    interruption: Interruption,
    monitor: Monitor,
) -> None:
    """Train one job and send its events; after `Ended` only its uploads are still to be told of."""
    begin = time.monotonic()
    outcome, reason, details, cause = Outcome.COMPLETED, "", "", Cause.TRAINING
    gauge = GpuGauge(setup.device)
    try:
        staging = staging_of(setup.folder, job.trial_id)
        channel = WorkerChannel(
            *(job, services.checkpoints, locations, staging),
            *(uploader, outbox, replies, interruption),
        )
        trial = Trial(job.params, stop=job.stop, seed=job.seed, device=setup.device, channel=channel)
        try:
            within = services.within(job.params, channel.reported, channel.run_id)
            sampler = Sampler(monitor, gauge, job, begin, outbox)
            with channel.training(), sampler, within, interruption.training(job):
                trainable(trial)
        except TrialStopped:
            outcome = Outcome.STOPPED
        except BaseException:
            with contextlib.suppress(Exception):  # what the training raised tells more
                channel.seal_staged()  # the study's best epoch may be among them
            raise
        finally:
            told, channel.stopped = channel.stopped, True  # a thread left behind reports for no other job
        channel.seal_staged()
        if outcome is Outcome.COMPLETED and channel.reached < job.stop:
            if told:
                outcome = Outcome.STOPPED
            else:
                outcome = Outcome.FAILED
                reason = returned_early(job.metric, channel.reached, job.stop)
    except BaseException as error:  # noqa: BLE001  SystemExit of the training code is a failure of the trial, too
        outcome, (reason, details, cause) = Outcome.FAILED, told_of(error)
    with contextlib.suppress(OSError):  # a disk that is full, or gone, has cost the job enough
        staging_of(setup.folder, job.trial_id).clear()
    gauge.release()
    if (memory := gauge.read()) is not None:
        outbox.send(memory)
    outbox.send(Ended(job.trial_id, outcome, time.monotonic() - begin, reason, details, cause))


@dataclass(frozen=True, slots=True)
class Desk:
    """What a worker process has, whatever it does with jobs."""

    connection: Connection
    setup: Setup
    trainable: Any
    services: Services
    outbox: Outbox
    locations: Locations
    uploader: Uploader

    @classmethod
    def at(cls, descriptor: int) -> Desk:
        """Take the driver's first message from a pipe."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
        connection = Connection(descriptor)
        outbox = Outbox(connection)
        setup: Setup = connection.recv()
        trainable, services = cloudpickle.loads(setup.payload)
        if setup.check:
            services.check()
        uploader = Uploader(services.checkpoints, outbox.send)
        return cls(connection, setup, trainable, services, outbox, Locations(), uploader)

    def open(self, take: Callable[[Any], None]) -> None:
        """Say that jobs may come; `take` gets them, replies and interrupts from a thread of its own."""
        threading.Thread(target=self._read, args=(take,), daemon=True, name="mlflow-hpo-reader").start()
        self.outbox.send(Ready())

    def leave(self) -> NoReturn:
        """End the process in good order."""
        self.uploader.drain()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # a thread that training code left behind must not keep the worker alive

    def _read(self, take: Callable[[Any], None]) -> None:
        while True:
            try:
                message: Any = self.connection.recv()
            except (EOFError, OSError):
                self.uploader.drain(LAST_UPLOADS)  # a resumed study finds them
                os._exit(1)  # the driver is gone: nobody is left to tell anything
            if isinstance(message, Located):
                self.locations.put(message)
            elif isinstance(message, Inherit):
                self.uploader.inherit(message.uploads)
            else:
                if isinstance(message, TrialJob):
                    self.locations.begin(message)
                take(message)


def main(descriptor: int) -> None:
    """Serve jobs until the driver closes the pipe."""
    desk = Desk.at(descriptor)
    interruption = Interruption()
    jobs: queue.SimpleQueue[TrialJob | None] = queue.SimpleQueue()
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    monitor = desk.services.monitor()

    def take(message: Any) -> None:
        if isinstance(message, Reply):
            replies.put(message)
        elif isinstance(message, Interrupt):
            interruption.request(message)
        else:
            jobs.put(message)

    desk.open(take)
    while (job := jobs.get()) is not None:
        run_job(
            *(job, desk.trainable, desk.services, desk.setup, desk.locations, desk.uploader, desk.outbox),
            *(replies, interruption, monitor),
        )
    desk.leave()
