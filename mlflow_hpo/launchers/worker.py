"""The worker process of the local launcher: takes jobs from a pipe, trains, tells what happened.

The main thread trains. A reader thread owns the receiving end of the pipe: it hands jobs and replies to the
main thread, raises `TrialStopped` inside the training code on an interrupt, and ends the process when the
driver is gone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle

from mlflow_hpo.errors import CorruptCheckpointError
from mlflow_hpo.launchers.base import (
    CheckpointStore,
    CheckpointStored,
    Ended,
    Event,
    Monitor,
    Outcome,
    Reported,
    Sampled,
    Services,
    Trainable,
    TrialJob,
    Warned,
)
from mlflow_hpo.trial import Trial, TrialStopped

UPLOAD_INTERVAL = 60.0  # seconds: what a crash costs at most, beside the present epoch
SAMPLE_INTERVAL = 1.0  # seconds between two samples of the system metrics
DETAILS = 4_000  # characters of a traceback that are worth keeping in a tag


@dataclass(frozen=True, slots=True)
class Setup:
    """First message of the driver."""

    payload: bytes  # cloudpickle of (trainable, services)
    device: str
    folder: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a `Reported`."""

    go_on: bool
    best: bool


@dataclass(frozen=True, slots=True)
class Interrupt:
    """End the job of this trial that began at epoch `start` now; of no effect once it is over."""

    trial_id: int
    start: int


@dataclass(frozen=True, slots=True)
class Ready:
    """First message of the worker: the trainable is loaded."""


class Outbox:
    """The sending end of the pipe, shared by the training thread and the sampling thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Event | Ready) -> None:
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


class WorkerChannel:
    """The channel of one job: staging of checkpoints on local disk, reports through the pipe."""

    def __init__(
        self,
        job: TrialJob,
        store: CheckpointStore,
        folder: Path,
        outbox: Outbox,
        replies: queue.SimpleQueue[Reply],
        interruption: Interruption,
    ) -> None:
        self._job = job
        self._store = store
        self._folder = folder
        self._outbox = outbox
        self._replies = replies
        self._interruption = interruption
        self._staged: dict[int, Path] = {}  # epoch -> file: at most the newest and the study's best
        self._best = 0
        self._uploaded: set[int] = set()
        self._last_upload = time.monotonic()
        self.reached = job.start
        self.stopped = False  # told to end; the training code may not have noticed

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Ask the driver whether to go on."""
        if self.stopped:
            return False
        with self._interruption.shielded():
            self.reached = max(self.reached, epoch)
            self._outbox.send(Reported(self._job.trial_id, epoch, dict(metrics), time.time()))
            reply = self._replies.get()
            if reply.best:
                self._best = epoch
            self._drop_staged()
            self.stopped = not reply.go_on
        return reply.go_on

    def save(self, epoch: int, path: Path) -> None:
        """Copy the checkpoint to the staging folder, and now and then to the store."""
        with self._interruption.shielded():
            staged = self._folder / f"epoch-{epoch}.ckpt"
            partial = staged.with_suffix(".partial")
            shutil.copyfile(path, partial)
            partial.replace(staged)  # a half-written file is never taken for a checkpoint
            self._staged[epoch] = staged
            self._uploaded.discard(epoch)
            if time.monotonic() - self._last_upload > UPLOAD_INTERVAL:
                self._upload(epoch)

    def load(self) -> tuple[int, Path] | None:
        """Fetch the newest checkpoint that is intact."""
        with self._interruption.shielded():
            if self._job.start == 0:
                return None
            for epoch, name in self._store.names():
                if epoch >= self._job.stop:
                    continue
                try:
                    return epoch, self._store.download(name, self._folder)
                except CorruptCheckpointError as error:
                    self._warn(
                        f"checkpoint of epoch {epoch} is corrupt, going on from the one before: {error}"
                    )
            self._warn(f"no intact checkpoint for epoch {self._job.start}: training from scratch")
            return None

    def upload_staged(self) -> None:
        """Store the newest checkpoint, and the one of the study's best epoch."""
        for epoch in sorted({max(self._staged), self._best} & self._staged.keys()) if self._staged else ():
            if epoch not in self._uploaded:
                self._upload(epoch)

    def _upload(self, epoch: int) -> None:
        name = self._store.upload(epoch, self._staged[epoch])
        self._uploaded.add(epoch)
        self._last_upload = time.monotonic()
        self._outbox.send(CheckpointStored(self._job.trial_id, epoch, name))

    def _drop_staged(self) -> None:
        newest = max(self._staged, default=0)
        for epoch in [epoch for epoch in self._staged if epoch not in (newest, self._best)]:
            self._staged.pop(epoch).unlink(missing_ok=True)

    def _warn(self, message: str) -> None:
        self._outbox.send(Warned(self._job.trial_id, message))


class Sampler:
    """Samples the machine in a thread of its own while a job runs."""

    def __init__(self, monitor: Monitor, job: TrialJob, outbox: Outbox) -> None:
        self._monitor = monitor
        self._job = job
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
            # a job shorter than the interval gets one sample all the same
            if not over or number == self._job.sample:
                self._outbox.send(
                    Sampled(self._job.trial_id, number, dict(self._monitor.sample()), time.time())
                )
                number += 1
            if over:
                return


def run_job(
    job: TrialJob,
    trainable: Trainable,
    services: Services,
    setup: Setup,
    outbox: Outbox,
    replies: queue.SimpleQueue[Reply],
    interruption: Interruption,
    monitor: Monitor,
) -> None:
    """Train one job and send its events; the last one is `Ended`."""
    begin = time.monotonic()
    folder = Path(setup.folder) / f"trial-{job.trial_id:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    outcome, reason, details = Outcome.COMPLETED, "", ""
    try:
        channel = WorkerChannel(
            job, services.checkpoints(job.location), folder, outbox, replies, interruption
        )
        trial = Trial(job.params, stop=job.stop, seed=job.seed, device=setup.device, channel=channel)
        try:
            with Sampler(monitor, job, outbox), interruption.training(job):
                trainable(trial)
        except TrialStopped:
            outcome = Outcome.STOPPED
        except BaseException:
            with contextlib.suppress(Exception):  # what the training raised tells more
                channel.upload_staged()  # the study's best epoch may be among them
            raise
        finally:
            told, channel.stopped = channel.stopped, True  # a thread left behind reports for no other job
        channel.upload_staged()
        if outcome is Outcome.COMPLETED and channel.reached < job.stop:
            if told:
                outcome = Outcome.STOPPED
            else:
                outcome = Outcome.FAILED
                reason = f"the training returned after reporting epoch {channel.reached} of {job.stop}"
    except BaseException as error:  # noqa: BLE001  SystemExit of the training code is a failure of the trial, too
        outcome = Outcome.FAILED
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        details = traceback.format_exc()[-DETAILS:]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    outbox.send(Ended(job.trial_id, outcome, time.monotonic() - begin, reason, details))


def main(descriptor: int) -> None:
    """Serve jobs until the driver closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    connection = Connection(descriptor)
    outbox = Outbox(connection)
    interruption = Interruption()
    jobs: queue.SimpleQueue[TrialJob | None] = queue.SimpleQueue()
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    setup: Setup = connection.recv()

    def read() -> None:
        while True:
            try:
                message: Any = connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the driver is gone: nobody is left to tell anything
            if isinstance(message, Reply):
                replies.put(message)
            elif isinstance(message, Interrupt):
                interruption.request(message)
            else:
                jobs.put(message)

    trainable, services = cloudpickle.loads(setup.payload)
    monitor = services.monitor()
    threading.Thread(target=read, daemon=True, name="mlflow-hpo-reader").start()
    outbox.send(Ready())
    while (job := jobs.get()) is not None:
        run_job(job, trainable, services, setup, outbox, replies, interruption, monitor)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a thread that training code left behind must not keep the worker alive
