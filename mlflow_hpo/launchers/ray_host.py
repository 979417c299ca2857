"""The Ray actor of one slot: hosts a worker process on whatever node Ray has put it.

The process is the one that the local launcher uses, in a pool of one. So what a training sees, and what
becomes of it when it raises, dies, hangs or is told to end, is the same in both. The driver calls the methods
of the pool from afar and waits for what it tells.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mlflow_hpo.launchers.base import TICK, Event, Slot
from mlflow_hpo.launchers.local import WorkerPool
from mlflow_hpo.scratch import shared_folder

ECHO_SIZE = 2**20  # bytes of a worker's output that are printed at a time


@dataclass(frozen=True, slots=True)
class Orders:
    """What a host needs to begin.

    Goes to it in a call of its own: Ray writes down what an actor is made with, the values of its environment
    included.

    Args:
        study: a name that no other study has.
        slot: where the trials run.
        jobs_per_worker: as `Launcher` has it.
        checks: whether to see if this node reaches the stores.
        path, folder: where the driver finds modules, and where it runs; used as far as they are there, too.
        environment: variables for the worker process.
    """

    study: str
    slot: Slot
    jobs_per_worker: int | None
    checks: bool
    path: Sequence[str]
    folder: str
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class News:
    """What a host has to tell.

    Args:
        events: of its jobs, in their order.
        ready: its worker process takes jobs.
        uploads: trial and epoch of the checkpoints that are still on their way to the store.
        problem: why it cannot go on, in one line; "" while it can.
    """

    events: tuple[Event, ...] = ()
    ready: bool = False
    uploads: tuple[tuple[int, int], ...] = ()
    problem: str = ""


class HostedPool(WorkerPool):
    """A pool of one worker."""

    def __init__(self, slot: Slot) -> None:
        super().__init__([slot])

    @property
    def connections(self) -> list[Connection]:
        """What can be read when the worker has something to tell."""
        return [worker.connection for worker in self._workers.values()]

    @property
    def ready(self) -> bool:
        """Whether the worker has loaded the training."""
        return all(worker.ready for worker in self._workers.values())

    @property
    def waiting(self) -> tuple[tuple[int, int], ...]:
        """Trial and epoch of what is not stored yet."""
        workers = self._workers.values()
        return tuple((each.trial_id, each.epoch) for worker in workers for each in worker.uploads.values())


class TrialHost:
    """The actor. Its methods are called from threads of Ray; a thread of its own owns the pool.

    It ends itself when Ray's manager of the node has died, which had started it: nobody hears of it any more,
    and its trial begins elsewhere.
    """

    def __init__(self) -> None:
        self._manager = os.getppid()
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...], dict[str, Any]]] = queue.SimpleQueue()
        self._early: dict[int, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._bell, self._button = socket.socketpair()
        self._over = False
        self._thread: threading.Thread | None = None

    def begin(self, orders: Orders, payload: bytes) -> News:
        """Start the worker process and return the first news; `payload` is what `packed` made."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        sys.path.extend(each for each in orders.path if each not in sys.path and os.path.exists(each))
        with contextlib.suppress(OSError):  # another machine need not have it
            os.chdir(orders.folder)
        self._thread = threading.Thread(
            target=self._serve, args=(orders, node, payload), daemon=True, name="mlflow-hpo-host"
        )
        self._thread.start()
        return self.news()

    def call(self, number: int, method: str, *args: Any, **options: Any) -> None:
        """Call a method of the pool. Calls are numbered, as Ray may bring them in another order."""
        with self._lock:
            self._early[number] = method, args, options
            while (ready := self._early.pop(self._next, None)) is not None:
                self._calls.put(ready)
                self._next += 1
        self._button.send(b"!")

    def news(self) -> News:
        """Wait until there is something to tell, and return it."""
        news = self._news.get()
        while not self._news.empty():
            later = self._news.get()
            news = replace(later, events=(*news.events, *later.events))
        return news

    def close(self) -> None:
        """Store what is left and stop the worker process."""
        self._over = True
        self._button.send(b"!")
        if self._thread is not None:
            self._thread.join()

    def _serve(self, orders: Orders, node: str, payload: bytes) -> None:
        slot = replace(orders.slot, env={**orders.slot.env, **orders.environment})
        pool = HostedPool(slot)
        pool.jobs_per_worker = orders.jobs_per_worker
        try:
            # what trials leave on this node serves all hosts of the study here
            with shared_folder(f"{orders.study}-{node}") as folder, contextlib.closing(pool):
                pool.checks = orders.checks
                pool.start_packed(payload, folder)
                pool.checks = False  # a store that is away later is waited for
                self._go_round(pool, Echo(folder / f"worker-{slot.number}.log"))
            if self._is_lost:
                os._exit(1)  # a method that waits for news would keep it alive
        except Exception as error:  # noqa: BLE001 - the driver must hear of it, whatever it is
            line = " ".join(str(error).split()) or type(error).__name__
            self._news.put(News(problem=f"{line:.500}"))

    @property
    def _is_lost(self) -> bool:
        return os.getppid() != self._manager

    def _go_round(self, pool: HostedPool, echo: Echo) -> None:
        """Pass on what the driver and the worker tell, until the end."""
        told = News()
        while not (self._over or self._is_lost):
            # a process that the training forked may hold the pipe of a dead worker open, hence the limit
            rung = self._bell in wait([*pool.connections, self._bell], TICK)
            echo.print_news()
            if rung:
                self._bell.recv(4096)
            while not self._calls.empty():
                method, args, options = self._calls.get()
                getattr(pool, method)(*args, **options)
            news = News(tuple(pool.wait(0.0)), pool.ready or told.ready, pool.waiting)
            if news.events or news != told:
                self._news.put(news)
                told = replace(news, events=())


class Echo:
    """Prints what is written to a file, so that it is seen where Ray shows what its workers print."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown = 0

    def print_news(self) -> None:
        """Print what is new in the file; one that was begun again is new from its beginning."""
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == self._shown:
                    return
                file.seek(self._shown if self._shown < size else 0)
                new = file.read(ECHO_SIZE)
                self._shown = file.tell()
        except OSError:
            return
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
