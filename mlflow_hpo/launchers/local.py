"""The local launcher: a pool of persistent worker processes on this machine."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.launchers.base import (
    TICK,
    Cause,
    Ended,
    Event,
    Launcher,
    Outcome,
    Reported,
    Sampled,
    Services,
    Slot,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.copies import LocalCopies
from mlflow_hpo.launchers.forks import Forked, start_worker
from mlflow_hpo.launchers.gpu_gauge import GpuMemory
from mlflow_hpo.launchers.gpu_sharing import GpuSharing, shared_gpu
from mlflow_hpo.launchers.output import end_of
from mlflow_hpo.launchers.processes import signal_name
from mlflow_hpo.launchers.slots import slots_here
from mlflow_hpo.launchers.uploader import Away, Back, Queued, Settled, Upload, inherited
from mlflow_hpo.launchers.worker import Inherit, Interrupt, Located, Ready, Reply, Setup, staging_of
from mlflow_hpo.patience import lasting_environment

CLOSE_TIMEOUT = 10.0  # seconds that idle workers get to leave by themselves
LAST_WORDS = 5.0  # seconds that a worker gets to exit that failed while it started
LAST_UPLOADS = 600.0  # seconds that uploads under way get before the workers are stopped ...
LAST_UPLOADS_AWAY = 10.0  # ... and those that wait for a store that is away
HEIRS = 3  # workers that may die over one upload before it is given up
BIRTHS = 20  # workers in a row that may be killed while they start before the study gives up
HEAVY = ("torch", "sklearn")  # imported before workers are forked, if they are here
LOG_TAIL = 2_000  # characters of a dead worker's output that are worth keeping

logger = logging.getLogger(__name__)


def packed(trainable: Any, services: Services) -> bytes:
    """Return the training and the services as they go to workers. Raises ConfigError if they cannot."""
    try:
        payload: bytes = cloudpickle.dumps((trainable, services))
    except Exception as error:
        raise ConfigError("train", f"cannot be sent to the workers: {error}") from error
    return payload


def modules_of(trainable: Any, services: Services) -> list[str]:
    """Return modules that workers will need."""
    own = getattr(trainable, "imports", ())
    return [type(services).__module__, *own, *(name for name in HEAVY if name in sys.modules)]


@dataclass(slots=True)
class Work:
    """A job in the hands of a worker."""

    slot: Slot
    job: TrialJob
    begin: float
    reported: int = 0  # the last epoch that it reported
    to_end: bool = False  # it was told to end


@dataclass(slots=True)
class Worker:
    """A worker process and what is known of it."""

    slot: Slot  # whose number, device and environment are the worker's
    process: Forked
    connection: Connection
    log: Path
    ready: bool = False
    works: dict[int, Work] = field(default_factory=dict)  # by the numbers of their slots
    killed: dict[int, str] = field(default_factory=dict)  # trials over which we killed it, and why
    uploads: dict[Path, Upload] = field(default_factory=dict)  # what it has still to store
    away: bool = False  # the store does not answer it
    memory: GpuMemory | None = None  # of its GPU, as it told last
    jobs: int = 0  # that it has run
    spoilt: bool = False  # its last job may have left it without memory, or its device in a bad state


class WorkerPool(Launcher):
    """Runs trials in persistent processes on this machine, one for each slot.

    Each process loads the training code once and keeps its slot's device and threads; one that dies takes
    its job down as FAILED and is replaced. One is also replaced after `jobs_per_worker` jobs, and after a job
    that ran out of memory or failed on its GPU. Workers are forked from a fresh interpreter that has imported
    libraries and done nothing else (see `forks`), so that they start at once, a script needs no ``if __name__
    == "__main__"``, and CUDA is never forked.

    Checkpoints are stored in the background. What a dead worker had still to store, its replacement stores.
    The newest checkpoint of a trial stays on this machine, too, for the trial's next job.

    Args:
        slots: where the trials run.
        homes: the slots of the workers, if these are not the same: several trials share a worker, those whose
            slots have the same number modulo the number of workers.

    Attributes:
        checks: whether a worker that starts sees to it that it reaches the stores.
        program: the module whose `main` a worker runs.
    """

    checks = False
    program = "mlflow_hpo.launchers.worker"

    def __init__(self, slots: Sequence[Slot], homes: Sequence[Slot] | None = None) -> None:
        self.slots = slots
        self._homes = slots if homes is None else homes
        self._workers: dict[int, Worker] = {}  # number of its slot -> worker
        self._copies = LocalCopies()
        self._stillborn = 0  # workers in a row that were killed while they started
        self._late: list[Event] = []  # what a worker said that was replaced meanwhile

    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Start all worker processes; they load torch and the training side by side."""
        self.start_packed(packed(trainable, services), folder, modules_of(trainable, services))

    def start_packed(self, payload: bytes, folder: Path, modules: Sequence[str] = ()) -> None:
        """Start as `start` does, with what `packed` made of the training and the services."""
        self._payload = payload
        self._modules = modules
        self._folder = folder
        for slot in self._homes:
            self._spawn(slot)

    @property
    def free_slot(self) -> Slot | None:
        """The first slot without a job whose worker takes one."""
        return next(self._free_slots(), None)

    def _free_slots(self) -> Iterator[Slot]:
        for slot in self.slots:
            worker = self._at(slot)
            if worker is None or slot.number in worker.works:
                continue
            if not (worker.works and self._is_old(worker)):
                yield slot

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Hand a job to the worker of `slot`."""
        worker = self._workers[self._home(slot)]
        if (work := worker.works.get(slot.number)) is not None:
            raise RuntimeError(f"slot {slot.number} is busy with trial {work.job.trial_id}")
        if self._is_old(worker) and not worker.works:
            self._late += self._bury(worker, retired=True)
            worker = self._workers[self._home(slot)]
        worker.works[slot.number] = Work(slot, job, time.monotonic())
        self._hand(worker, worker.works[slot.number])

    def _hand(self, worker: Worker, work: Work) -> None:
        """Let a worker begin with a job that is booked for it."""
        self._send(worker, work.job)

    def located(self, trial_id: int, location: str, run_id: str) -> None:
        """Tell the trial's worker where its checkpoints live; one that is dead need not know."""
        if (found := self._of(trial_id)) is not None:
            worker, work = found
            work.job = replace(work.job, location=location, run_id=run_id)
            self._send(worker, Located(trial_id, location, run_id))

    def wait(self, timeout: float) -> list[Event]:
        """Return what the workers sent, and the end of those that died."""
        connections = {worker.connection: worker for worker in self._workers.values()}
        events, self._late = self._late, []
        for connection in wait(list(connections), 0.0 if events else timeout):
            worker = connections[connection]  # type: ignore[index]  # only connections were passed
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                events += self._bury(worker)
                continue
            events += self._heard(worker, message)
            if (
                isinstance(message, Ended) and worker.killed
            ):  # too late for this job, and not meant for the next
                events += self._bury(worker)
        for worker in list(self._workers.values()):
            # a process that the training forked may hold the pipe of a dead worker open
            if worker.process.poll() is not None and not worker.connection.poll():
                events += self._bury(worker)
            elif not worker.works and self._is_old(worker) and not worker.uploads:
                events += self._bury(worker, retired=True)
        return events

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Answer a report."""
        if (found := self._of(trial_id)) is not None:
            worker, work = found
            if best:
                self._copies.best(trial_id, work.reported)
            work.to_end = work.to_end or not go_on
            self._send(worker, Reply(trial_id, go_on, best))

    def interrupt(self, trial_id: int) -> None:
        """Raise `TrialStopped` inside the training."""
        if (found := self._of(trial_id)) is not None:
            worker, work = found
            work.to_end = True
            self._send(worker, Interrupt(trial_id, work.job.start))

    def kill(self, trial_id: int, reason: str) -> None:
        """Send SIGKILL to the trial's worker; a new one takes its slot."""
        if (found := self._of(trial_id)) is not None:
            worker, _ = found
            worker.killed.setdefault(trial_id, reason)
            _kill(worker)

    @property
    def uploads(self) -> int:
        """How many checkpoints the workers have still to store."""
        return sum(len(worker.uploads) for worker in self._workers.values())

    def forget(self, trial_id: int) -> None:
        """Let go of the local copies of a trial that will not go on."""
        self._copies.forget(trial_id)

    def close(self) -> None:
        """Stop busy workers by force and, once everything is stored, idle ones in good order."""
        for worker in list(self._workers.values()):
            if worker.works:
                worker.works.clear()
                _kill(worker)
                if worker.uploads:
                    with contextlib.suppress(StudyError):
                        self._bury(worker)
        self._finish_uploads()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for worker in self._workers.values():
            self._send(worker, None)
        for worker in self._workers.values():
            if not worker.uploads:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
            _kill(worker)
            worker.process.wait()
            worker.connection.close()
        self._workers.clear()

    def _finish_uploads(self) -> None:
        begin = time.monotonic()
        while self.uploads:
            away = any(worker.away for worker in self._workers.values())
            if time.monotonic() - begin > (LAST_UPLOADS_AWAY if away else LAST_UPLOADS):
                logger.warning("%d checkpoints are not stored: the artifact store is away", self.uploads)
                return
            try:
                self.wait(TICK)
            except StudyError as error:
                logger.warning("checkpoints may not be stored: %s", error)
                return

    def _spawn(self, slot: Slot) -> Worker:
        ours, theirs = socket.socketpair()
        log = self._folder / f"worker-{slot.number}.log"
        with theirs, log.open("wb") as output:
            variables = {**lasting_environment(), **slot.env}
            process = start_worker(self.program, self._modules, variables, theirs.fileno(), output)
        worker = Worker(slot, process, Connection(ours.detach()), log)
        self._workers[slot.number] = worker
        self._send(worker, Setup(self._payload, slot.device, str(self._folder), self.checks))
        return worker

    def _send(self, worker: Worker, message: object) -> None:
        with contextlib.suppress(OSError):  # a dead worker: `wait` finds the end of its pipe and tells
            worker.connection.send(message)

    def _home(self, slot: Slot) -> int:
        return self._homes[slot.number % len(self._homes)].number

    def _at(self, slot: Slot) -> Worker | None:
        return self._workers.get(self._home(slot))

    def _of(self, trial_id: int) -> tuple[Worker, Work] | None:
        """Return who has a trial's job; None where the worker died before what it said was heard."""
        for worker in self._workers.values():
            for work in worker.works.values():
                if work.job.trial_id == trial_id:
                    return worker, work
        return None

    def _heard(self, worker: Worker, message: object) -> list[Event]:
        """Book a message of a worker; return what the study hears of it."""
        match message:
            case Ready():
                worker.ready = True
                self._stillborn = 0
            case Queued(upload):
                worker.uploads[upload.path] = upload
                self._copies.queued(upload, self._running())
            case Settled(upload, event):
                worker.uploads.pop(upload.path, None)
                self._copies.settled(upload, self._running())
                return [] if event is None else [event]
            case GpuMemory():
                worker.memory = message
            case Away(trial_id, problem):
                first = not any(other.away for other in self._workers.values())
                worker.away = True
                waits = "training goes on, and checkpoints wait on this machine until it is back"
                return [Warned(trial_id, f"the artifact store is away: {waits} ({problem})")] if first else []
            case Back(trial_id):
                worker.away = False
                if not any(other.away for other in self._workers.values()):
                    return [Warned(trial_id, "the artifact store is back, and what waited for it is stored")]
            case Reported():
                for work in worker.works.values():
                    if work.job.trial_id == message.trial_id:
                        work.reported = message.epoch
                return [message]
            case Ended():
                for number, work in list(worker.works.items()):
                    if work.job.trial_id == message.trial_id:
                        del worker.works[number]
                worker.jobs += 1
                if re.search("memory|CUDA", message.reason, re.IGNORECASE):
                    worker.spoilt = True
                return [message]
            case _:
                return [message]  # type: ignore[list-item]  # the other events
        return []

    def _running(self) -> set[int]:
        return {work.job.trial_id for worker in self._workers.values() for work in worker.works.values()}

    def _is_old(self, worker: Worker) -> bool:
        """Whether a worker gets no more jobs; it is replaced as soon as it has stored everything, or when the
        next job comes.
        """
        return worker.spoilt or (self.jobs_per_worker is not None and worker.jobs >= self.jobs_per_worker)

    def _bury(self, worker: Worker, *, retired: bool = False) -> list[Event]:
        """Replace a dead or `retired` worker; its jobs are over, what it had to store is handed on."""
        if not worker.ready and not worker.killed:  # its exit code tells whether it makes sense to try again
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(LAST_WORDS)
        _kill(worker)  # it may have closed its pipe without dying
        code = worker.process.wait()
        events: list[Event] = []
        with contextlib.suppress(EOFError, OSError):  # what it said in the end
            while worker.connection.poll():
                events += self._heard(worker, worker.connection.recv())
        worker.connection.close()
        tail = end_of(worker.log, LOG_TAIL)
        stillborn = not worker.ready and not worker.killed
        self._stillborn += stillborn
        if stillborn and (code >= 0 or self._stillborn > BIRTHS):
            del self._workers[worker.slot.number]
            raise StudyError(f"a worker process could not start: {tail.splitlines()[-1] if tail else code}")
        for work in worker.works.values():
            if work.job.location:
                self._seal_staged(worker, work)
        heir = self._spawn(worker.slot)
        for upload in worker.uploads.values():
            left = upload if retired else inherited(upload)
            if left.heirs <= HEIRS:
                heir.uploads[left.path] = left
            else:
                events.append(Warned(left.trial_id, _deadly(left)))
                self._copies.settled(left, self._running())
        if heir.uploads:
            self._send(heir, Inherit(tuple(heir.uploads.values())))
        if stillborn:  # no job had begun
            for work in worker.works.values():
                self.submit(work.slot, work.job)
            return events
        died = f"signal {signal_name(-code)}" if code < 0 else f"exit code {code}"
        blamed = self._blamed(worker)
        for work in worker.works.values():
            trial_id, seconds = work.job.trial_id, time.monotonic() - work.begin
            if (killed := worker.killed.get(trial_id)) is not None:
                ended = Ended(trial_id, Outcome.FAILED, seconds, killed, tail)
            elif trial_id in blamed or work.to_end:
                reason = f"the worker process died: {died}"
                ended = Ended(trial_id, Outcome.FAILED, seconds, reason, tail, Cause.LOST)
            else:
                ended = Ended(trial_id, Outcome.UNFINISHED, seconds)
            events.append(ended)
        return events

    def _blamed(self, worker: Worker) -> set[int]:
        """Return the trials that the death of their worker is put down to; others are handed out again."""
        return set() if worker.killed else {work.job.trial_id for work in worker.works.values()}

    def _seal_staged(self, worker: Worker, work: Work) -> None:
        """Add what a job of a dead worker had staged to what the worker had to store, but no checkpoint of
        an epoch that it has not reported: whoever goes on from that could not report it any more.
        """
        job = work.job
        try:
            staging = staging_of(self._folder, job.trial_id)
            epochs = [epoch for epoch in staging.staged() if epoch <= work.reported]
            for epoch in epochs:
                path = staging.seal(epoch)
                newest = epoch == epochs[-1] and epoch >= staging.sealed()[0][0]
                upload = Upload(job.trial_id, job.location, epoch, path, path.stat().st_size, newest)
                worker.uploads[path] = upload
                self._copies.queued(upload, self._running())
            staging.clear()
        except OSError as error:
            logger.warning("the newest checkpoint of trial %d is lost: %s", job.trial_id, error)


class LocalLauncher(WorkerPool):
    """Runs trials on this machine: `workers` processes, spread over its GPUs or dividing its cores.

    A slot with a part of a GPU takes a job only while the GPU's memory is enough, as `GpuSharing` has it.

    Args:
        workers: number of processes.
        gpus_per_trial: as `make_slots` has it.
        max_memory_fraction: of a GPU's memory that trials which share it may take.

    Raises:
        ConfigError: what `make_slots` and `GpuSharing` raise.
    """

    def __init__(
        self, workers: int, *, gpus_per_trial: float | None = None, max_memory_fraction: float = 0.9
    ) -> None:
        super().__init__(slots_here(workers, gpus_per_trial))
        self._sharing = GpuSharing(max_memory_fraction)

    def _free_slots(self) -> Iterator[Slot]:
        running: Counter[str | None] = Counter()
        held: Counter[str | None] = Counter()  # bytes of workers without a job
        for worker in self._workers.values():
            gpu = shared_gpu(worker.slot)
            if worker.works:
                running[gpu] += 1
            elif worker.memory is not None:
                held[gpu] += worker.memory.held
        for slot in super()._free_slots():
            gpu = shared_gpu(slot)
            its_own = self._workers[slot.number].memory
            idle = held[gpu] - (0 if its_own is None else its_own.held)  # which the job uses
            if gpu is None or self._sharing.has_room(gpu, running[gpu], idle):
                yield slot

    def _heard(self, worker: Worker, message: object) -> list[Event]:
        trained = isinstance(message, Reported) or any(work.reported for work in worker.works.values())
        events = super()._heard(worker, message)
        lacked = isinstance(message, Ended) and message.cause is Cause.RESOURCES
        if (gpu := shared_gpu(worker.slot)) is None or not (trained or lacked):
            return events
        if worker.memory is not None:
            self._sharing.needed(gpu, worker.memory)
        elif isinstance(message, Sampled | Ended):  # memory is told before these
            self._sharing.untold()
        return events


def _deadly(upload: Upload) -> str:
    return (
        f"the checkpoint of epoch {upload.epoch} is not stored: {HEIRS + 1} workers died over it; only this "
        "machine can go on from it while the study runs"
    )


def _kill(worker: Worker) -> None:
    """Kill a worker and all that its training forked: they may hold the device."""
    worker.process.kill_group()
