"""Worker processes are forked from one server, and are told of as processes are that this one started."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from mlflow_hpo.launchers import forks
from mlflow_hpo.launchers.processes import import_path

PROGRAM = """
import json, os, random, sys, time

def main(pipe):
    asked = json.loads(os.read(pipe, 1000))
    print("said", asked["say"], flush=True)
    if asked["say"] == "state":
        import numpy
        state = {
            "environment": dict(os.environ), "folder": os.getcwd(), "path": sys.path, "group": os.getpgid(0),
            "pid": os.getpid(), "parent": os.getppid(), "modules": sorted(sys.modules),
            "drawn": [random.random(), numpy.random.random()], "files": len(os.listdir("/proc/self/fd")),
        }
        os.write(pipe, json.dumps(state).encode())
    elif asked["say"] == "fork":
        if (child := os.fork()) == 0:
            time.sleep(3600)
        os.write(pipe, b"%d" % child)
        time.sleep(asked.get("stay", 0))
    elif asked["say"] == "stay":
        time.sleep(3600)
    elif asked["say"] == "raise":
        raise ValueError("a bad day")
    sys.exit(asked.get("code", 0))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "program_of_workers.py").write_text(PROGRAM)
    (tmp_path / "needed_by_workers.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "program_of_workers"


@pytest.fixture
def start(program, tmp_path):
    """Starts a worker; returns it and its pipe. Its output is in the file `log`."""
    with contextlib.ExitStack() as stack:

        def begin(program=program, modules=(), environment=None, **asked):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs, (tmp_path / "log").open("wb") as log:
                env = dict(os.environ) if environment is None else environment
                process = forks.start_worker(program, modules, env, theirs.fileno(), log)
            stack.callback(process.wait, 60)
            stack.callback(process.kill_group)
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                ours.sendall(json.dumps(asked).encode())
            return process, ours

        yield begin


def state_of(pipe):
    parts = []
    while part := pipe.recv(1 << 16):
        parts.append(part)
    return json.loads(b"".join(parts))


def test_a_worker_is_as_it_was_asked_for(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process, pipe = start(
        say="state",
        code=3,
        modules=["needed_by_workers", "not_there"],
        environment={"ITS": "a\nb \udcff", "PATH": ""},
    )
    state = state_of(pipe)
    assert process.wait(60) == process.poll() == process.returncode == 3
    assert state["environment"] == {"ITS": "a\nb \udcff", "PATH": ""}
    assert (state["folder"], state["path"]) == (str(tmp_path), sys.path)
    assert state["group"] == state["pid"] == process.pid
    assert "needed_by_workers" in state["modules"]
    assert (tmp_path / "log").read_text() == "said state\n"


def test_a_worker_starts_where_the_folder_of_its_driver_is_gone(start, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    process, _ = start(say="well")
    assert process.wait(60) == 0
    assert (tmp_path / "log").read_text() == "said well\n"


def test_workers_have_one_server_and_nothing_of_each_other(start):
    start(say="stay")
    states = [state_of(start(say="state", modules=["numpy"])[1]) for _ in range(2)]
    assert states[0]["parent"] == states[1]["parent"] == forks._servers[-1].process.pid
    assert [state["files"] for state in states] == [5, 5]  # 0, 1, 2, its pipe, and that very folder
    assert not {*states[0]["drawn"]} & {*states[1]["drawn"]}


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"say": "well"}, 0, "said well\n"),
        ({"say": "text", "code": "no good"}, 1, "no good\n"),
        ({"say": "nothing", "code": None}, 0, "said nothing\n"),
        ({"say": "raise"}, 1, "ValueError: a bad day\n"),
        ({"say": "x", "program": "not_there_either"}, 1, "No module named 'not_there_either'\n"),
    ],
)
def test_exit_codes_are_those_of_an_interpreter(start, tmp_path, asked, code, said):
    process, _ = start(**asked)
    assert process.wait(60) == code
    assert (tmp_path / "log").read_text().endswith(said)


def test_the_end_of_a_worker_is_the_end_of_what_it_forked(start):
    process, pipe = start(say="fork")
    child = psutil.Process(int(pipe.recv(100)))
    with pytest.raises(subprocess.TimeoutExpired):
        start(say="stay")[0].wait(0.01)
    assert process.wait(60) == 0
    child.wait(60)
    killed, pipe = start(say="fork", stay=3600)
    child = psutil.Process(int(pipe.recv(100)))
    assert killed.poll() is None
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL
    child.wait(60)
    killed.kill()  # of no effect
    killed.kill_group()


def said_by_a_driver_that_is_killed(program, folder, script):
    """Run a script that has a `worker` and its pipe, `ours`, and kills itself; return the words it said."""
    begin = f"""
        import os, socket, sys
        sys.path.insert(0, {str(folder)!r})
        from mlflow_hpo.launchers import forks
        ours, theirs = socket.socketpair()
        with open("log", "wb") as log:
            worker = forks.start_worker({program!r}, [], os.environ, theirs.fileno(), log)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(begin) + textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.split()


def test_what_workers_forked_ends_with_them_when_their_server_is_killed_with_its_driver(program, tmp_path):
    said = said_by_a_driver_that_is_killed(
        *(program, tmp_path),
        """
        ours.sendall(b'{"say": "fork", "stay": 3600}')
        print(worker.pid, ours.recv(100).decode(), flush=True)
        os.kill(forks._servers[-1].process.pid, 9)
        os.kill(os.getpid(), 9)
        """,
    )
    for pid in said:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(int(pid)).wait(60)


def test_a_server_that_dies_takes_its_workers_along_and_is_replaced(start):
    processes = [start(say="stay")[0] for _ in range(2)]
    pids = [process.pid for process in processes]
    server = forks._servers[-1].process
    server.kill()
    assert [process.wait(60) for process in processes] == [-signal.SIGKILL] * 2
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(60)
    process, pipe = start(say="state")
    assert state_of(pipe)["parent"] == forks._servers[-1].process.pid != server.pid
    assert process.wait(60) == 0


def test_a_server_that_cannot_start_is_told(start, monkeypatch, tmp_path):
    forks.close_servers()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "mlflow_hpo.py").write_text("raise ImportError('this is another one')")
    process, _ = start(say="well")
    assert (process.wait(60), process.pid) == (1, None)
    process.kill()
    process.kill_group()
    assert (tmp_path / "log").read_text().endswith("ImportError: this is another one\n")


def test_what_counts_when_libraries_are_loaded_makes_another_server(start, monkeypatch):
    monkeypatch.setattr(forks, "SERVERS", 2)
    first = state_of(start(say="state")[1])["parent"]
    parents = []
    for environment in ({"MLFLOW_X": "1"}, {"OMP_NUM_THREADS": "7"}, {}, {"OMP_NUM_THREADS": "8"}):
        state = state_of(start(say="state", environment={**os.environ, **environment})[1])
        assert {*environment.items()} <= {*state["environment"].items()}
        parents.append(state["parent"])
    assert (parents[0], parents[2]) == (first, first)
    assert len({*parents}) == 3
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parents[1]).wait(60)  # it was in use longest ago, and has no more workers


def test_workers_outlive_their_process_as_long_as_they_like_and_their_server_with_them(program, tmp_path):
    said = said_by_a_driver_that_is_killed(
        *(program, tmp_path),
        """
        ours.sendall(b'{"say": "stay"}')
        print(worker.pid, forks._servers[-1].process.pid, flush=True)
        if os.fork() == 0:
            assert forks._servers == []
            os._exit(0)
        assert os.wait()[1] == 0
        os.kill(os.getpid(), 9)
        """,
    )
    worker, server = (psutil.Process(int(pid)) for pid in said)
    time.sleep(0.2)
    assert (worker.ppid(), worker.is_running()) == (server.pid, True)
    worker.kill()
    server.wait(60)


def test_entries_of_the_path_that_are_no_texts_are_passed_over(monkeypatch):
    monkeypatch.setattr(sys, "path", [Path("/nowhere"), *sys.path])
    assert import_path() == sys.path[1:]
