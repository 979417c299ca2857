"""The fork server: a process that has imported what takes seconds, and forks workers that have it, too.

It never touches a GPU and starts no threads, so a fork of it is as good as a fresh interpreter. It lives in a
session of its own until the process that started it has ended, and all that it forked. The end of a worker
is the end of all that it started; where the server is killed, and its workers with it, a guard sees to that.

A request comes through a Unix socket as three descriptors: a socket of this one process, and the pipe and the
log of the worker. The socket holds a line of JSON, and gets back the process's id in a line, and when it has
ended its exit code, minus the signal that ended it, in another.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn

from mlflow_hpo.launchers.processes import Guard

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One worker.

    Attributes:
        program: the module whose `main` it runs, with the descriptor of its pipe.
        modules: what is imported before it is forked, where that works.
        path: where it finds modules.
        folder: its working directory; where it is gone, that of the server.
        environment: all of it.
    """

    program: str
    modules: list[str]
    path: list[str]
    folder: str
    environment: dict[str, str]

    def to_line(self) -> bytes:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main(descriptor: int) -> None:
    """Serve until the other end of the socket is closed, and all that was forked has ended."""
    requests: socket.socket | None = socket.socket(fileno=descriptor)
    wakes, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    children: dict[int, socket.socket] = {}  # process id -> who hears of its end
    guard = Guard()
    while requests is not None or children:
        ready, _, _ = select.select([wakes] if requests is None else [wakes, requests], [], [])
        if wakes in ready:
            wakes.recv(4096)
            _bury(children, guard)
        if requests is not None and requests in ready:
            _, descriptors, _, _ = socket.recv_fds(requests, 1, 3)
            if not descriptors:
                requests.close()
                requests = None
                continue
            told, pipe, log = socket.socket(fileno=descriptors[0]), *descriptors[1:]
            ours = [wakes, waker, requests, told, *children.values()]
            pid = _fork(Request(**json.loads(told.makefile().readline())), pipe, log, ours, guard)
            children[pid] = told
            guard.watch(pid)
            _tell(told, pid)
            os.close(pipe)
            os.close(log)
    guard.close()


def _fork(request: Request, pipe: int, log: int, ours: Sequence[socket.socket], guard: Guard) -> int:
    """Fork a worker that has none of our own sockets and pipes; return its process id."""
    _prepare(request)
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for unneeded in ours:
            unneeded.close()
        guard.disown()
        _work(request, parent, pipe, log)
    with contextlib.suppress(OSError):  # both do it: whoever hears of the process may kill its group
        os.setpgid(pid, pid)
    return pid


def _prepare(request: Request) -> None:
    sys.path[:] = request.path
    for name in (request.program, *request.modules):
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # the worker fails itself, and says why in its log
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collections in workers need not touch, and so copy, what is shared


def _bury(children: dict[int, socket.socket], guard: Guard) -> None:
    with contextlib.suppress(ChildProcessError):  # none is left
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if (told := children.pop(ended.si_pid, None)) is not None:
                with contextlib.suppress(OSError):  # before its id may be that of another
                    os.killpg(ended.si_pid, signal.SIGKILL)
                guard.forget(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            if told is not None:
                _tell(told, os.waitstatus_to_exitcode(status))
                told.close()


def _tell(told: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody wants to know any more
        told.sendall(b"%d\n" % number)


def _work(request: Request, parent: int, pipe: int, log: int) -> NoReturn:
    """Be the worker."""
    code = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody would tell of its end
        if os.getppid() != parent:
            os._exit(1)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update(request.environment)
        with contextlib.suppress(OSError):  # it is gone
            os.chdir(request.folder)
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed()  # or all draw the same
        importlib.import_module(request.program).main(pipe)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            code = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  as an interpreter does it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
