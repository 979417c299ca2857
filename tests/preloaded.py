"""Commands in a Python that has already imported what takes seconds.

`python`, `mlflow` and `mlflow-hpo` in the folder `bin` of `preloaded` are small scripts that hand their
arguments, folder, environment and output over to a process that is forked from one with MLflow and torch in
it. So commands of a shell are processes of their own as ever, and start at once.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import shutil
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

HEAVY = (
    *(
        "alembic.command",
        "hyperopt",
        "mlflow.projects",
        "mlflow.pytorch",
        "mlflow.store.tracking.sqlalchemy_store",
    ),
    *("sklearn.linear_model", "torch", "mlflow_hpo.cli", "mlflow_hpo.doctor", "mlflow_hpo.study"),
    "mlflow_hpo.training.serving",
)
COMMANDS = {"python": "", "mlflow": "mlflow", "mlflow-hpo": "mlflow_hpo"}  # command -> its module
SCRIPT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ), os.getpid()]).encode() + b"\\n")
    sys.exit(int(server.recv(16) or b"1"))
"""


def _become(arguments: Sequence[str], folder: str, environment: dict[str, str], caller: int) -> None:
    """Be the Python that the process `caller` was asked for."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(f"/proc/{caller}/fd/{stream}", os.O_WRONLY | os.O_APPEND), stream)
    command = Path(arguments[0]).name
    rest = list(arguments[1:])
    if command == "python" and rest[0] == "-m":
        module, rest = rest[1], rest[2:]
    else:
        module = COMMANDS[command]
    if module:
        sys.argv = [command, *rest]
        sys.path.insert(0, folder if command == "python" else "")
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        sys.path.insert(0, str(Path(rest[0]).resolve().parent))
        runpy.run_path(rest[0], run_name="__main__")


def _serve(connection: socket.socket) -> None:
    with connection:
        asked = connection.makefile().readline()
        process = multiprocessing.get_context("forkserver").Process(target=_become, args=json.loads(asked))
        process.start()
        if process.sentinel not in wait([process.sentinel, connection]):
            process.terminate()  # a caller that is killed takes its process with it
        process.join()
        with contextlib.suppress(OSError):
            connection.sendall(str(process.exitcode if process.exitcode >= 0 else 1).encode())


def _listen(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def preloaded(folder: Path) -> Iterator[Path]:
    """Start it, and return the folder with its commands, to be the first of PATH; `folder` is empty."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(HEAVY))
    commands = folder / "bin"
    commands.mkdir()
    address = str(folder / "socket")
    for name in COMMANDS:
        script = commands / name
        script.write_text(SCRIPT.format(python=shutil.which(sys.executable), address=address))
        script.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_listen, args=(listener,), daemon=True).start()
        yield commands
        listener.shutdown(socket.SHUT_RDWR)
