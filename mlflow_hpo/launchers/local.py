"""The local launcher: a pool of persistent worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO

import cloudpickle

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.launchers.base import Ended, Event, Launcher, Outcome, Services, Slot, Trainable, TrialJob
from mlflow_hpo.launchers.worker import Interrupt, Ready, Reply, Setup

CLOSE_TIMEOUT = 10.0  # seconds that idle workers get to leave by themselves
LOG_TAIL = 2_000  # characters of a dead worker's output that are worth keeping


def visible_gpus() -> list[str]:
    """Return the ids of the CUDA devices that this process may use and that torch can use; [] when there is
    none.

    NVML is asked rather than torch: the driver process need not hold a CUDA context.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        ids = [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    else:
        import pynvml

        try:
            pynvml.nvmlInit()
            ids = [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return []
    if not ids:
        return []
    import torch

    return ids if torch.version.cuda is not None else []  # a CPU build of torch can't use them


def make_slots(workers: int, gpus: list[str], cores: int) -> list[Slot]:
    """Divide GPUs (round robin) and CPU threads among `workers` slots.

    >>> [slot.env["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, ["0", "1"], 8)]
    ['0', '1', '0']
    >>> [slot.device for slot in make_slots(2, [], 8)]
    ['cpu', 'cpu']
    """
    threads = str(max(1, cores // workers))
    slots = []
    for number in range(workers):
        env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        if not gpus:
            slots.append(Slot(number, "cpu", 0.0, env))
            continue
        gpu = number % len(gpus)
        sharing = len(range(gpu, workers, len(gpus)))
        slots.append(Slot(number, "cuda:0", 1 / sharing, {**env, "CUDA_VISIBLE_DEVICES": gpus[gpu]}))
    return slots


@dataclass(slots=True)
class _Worker:
    slot: Slot
    process: subprocess.Popen[bytes]
    connection: Connection
    log: Path
    ready: bool = False
    job: TrialJob | None = None
    begin: float = 0.0
    killed: str = ""  # why we killed it


class LocalLauncher(Launcher):
    """Runs each trial in one of `workers` persistent processes on this machine.

    Each process imports torch and the training code once and keeps its slot's device and threads; one that
    dies takes its trial down as FAILED and is replaced. Workers are started from a fresh interpreter, so
    that a script needs no ``if __name__ == "__main__"`` and CUDA is never forked.

    Args:
        workers: number of processes.

    Raises:
        ConfigError: `workers` is not 1 or more.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ConfigError("workers", f"must be 1 or more, got {workers}")
        self.slots = make_slots(workers, visible_gpus(), len(os.sched_getaffinity(0)))
        self._workers: dict[int, _Worker] = {}  # slot number -> worker

    def start(self, trainable: Trainable, services: Services, folder: Path) -> None:
        """Start all worker processes; they load torch and the training side by side."""
        try:
            self._payload = cloudpickle.dumps((trainable, services))
        except Exception as error:
            raise ConfigError("train", f"cannot be sent to the workers: {error}") from error
        self._folder = folder
        for slot in self.slots:
            self._spawn(slot)

    @property
    def free_slot(self) -> Slot | None:
        """The first slot whose worker has no job."""
        return next((worker.slot for worker in self._workers.values() if worker.job is None), None)

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Hand a job to the worker of `slot`."""
        worker = self._workers[slot.number]
        if worker.job is not None:
            raise RuntimeError(f"slot {slot.number} is busy with trial {worker.job.trial_id}")
        worker.job, worker.begin = job, time.monotonic()
        self._send(worker, job)

    def wait(self, timeout: float) -> list[Event]:
        """Return what the workers sent, and the end of those that died."""
        connections = {worker.connection: worker for worker in self._workers.values()}
        events: list[Event] = []
        for connection in wait(list(connections), timeout):
            worker = connections[connection]  # type: ignore[index]  # only connections were passed
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                events += self._bury(worker)
                continue
            if isinstance(message, Ready):
                worker.ready = True
                continue
            events.append(message)
            if isinstance(message, Ended):
                worker.job = None
                if worker.killed:  # too late for this job, and not meant for the next one
                    self._bury(worker)
        for worker in list(self._workers.values()):
            # a process that the training forked may hold the pipe of a dead worker open
            if worker.process.poll() is not None and not worker.connection.poll():
                events += self._bury(worker)
        return events

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Answer a report."""
        self._send(self._of(trial_id), Reply(go_on, best))

    def interrupt(self, trial_id: int) -> None:
        """Raise `TrialStopped` inside the training."""
        worker = self._of(trial_id)
        if worker.job is not None:
            self._send(worker, Interrupt(trial_id, worker.job.start))

    def kill(self, trial_id: int, reason: str) -> None:
        """Send SIGKILL to the trial's worker; a new one takes its slot."""
        worker = self._of(trial_id)
        worker.killed = worker.killed or reason
        _kill(worker)

    def close(self) -> None:
        """Stop idle workers in good order, busy ones by force."""
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for worker in self._workers.values():
            if worker.job is None:
                self._send(worker, None)
            else:
                _kill(worker)
        for worker in self._workers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            _kill(worker)
            worker.process.wait()
            worker.connection.close()
        self._workers.clear()

    def _spawn(self, slot: Slot) -> None:
        ours, theirs = socket.socketpair()
        log = self._folder / f"worker-{slot.number}.log"
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from mlflow_hpo.launchers.worker import main; "
            f"main({theirs.fileno()})"
        )
        output: IO[bytes]
        with theirs, log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", code],
                env={**os.environ, **slot.env},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the driver's to handle
            )
        worker = _Worker(slot, process, Connection(ours.detach()), log)
        self._workers[slot.number] = worker
        self._send(worker, Setup(self._payload, slot.device, str(self._folder)))

    def _send(self, worker: _Worker, message: object) -> None:
        with contextlib.suppress(OSError):  # a dead worker: `wait` finds the end of its pipe and tells
            worker.connection.send(message)

    def _of(self, trial_id: int) -> _Worker:
        for worker in self._workers.values():
            if worker.job is not None and worker.job.trial_id == trial_id:
                return worker
        raise RuntimeError(f"trial {trial_id} is not running")

    def _bury(self, worker: _Worker) -> list[Event]:
        """Replace a dead worker; its trial has failed."""
        worker.connection.close()
        _kill(worker)  # it may have closed its pipe without dying
        code = worker.process.wait()
        tail = _tail(worker.log)
        if not worker.ready and not worker.killed:
            del self._workers[worker.slot.number]
            raise StudyError(f"a worker process could not start: {tail.splitlines()[-1] if tail else code}")
        self._spawn(worker.slot)
        if worker.job is None:
            return []
        died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return [
            Ended(
                worker.job.trial_id,
                Outcome.FAILED,
                time.monotonic() - worker.begin,
                worker.killed or f"the worker process died: {died}",
                tail,
            )
        ]


def _kill(worker: _Worker) -> None:
    """Kill a worker and all that its training forked: they may hold the device."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)  # it began a session, so a group, of its own


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        return file.read().decode(errors="replace").strip()
