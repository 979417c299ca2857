"""A stand-in for docker, client and engine, with what the tests need of both.

A container is a process of this machine, in the folder that was packed for its image, with the variables that
it was given and nothing else. It outlives its client if that is killed, as a real one does. Nothing is
mounted: the places where volumes would be are renamed in its command and its variables to what they are here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
from pathlib import Path

STATE = Path(os.environ["DOCKER_STAND_IN"])
TICK = 0.02


def main(arguments: list[str]) -> int:
    if (STATE / "dead").exists():
        sys.exit(
            "Client: 28\nServer:\nERROR: Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
        )
    with (STATE / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    match arguments:
        case ["info"]:
            print("Server: stand-in")
        case ["image", "inspect", "--format", "{{.Id}}", name]:
            print(image(name))
        case ["pull", "--quiet", name]:
            if name.startswith("unknown"):
                sys.exit(f"Error response from daemon: pull access denied for {name}")
            add(name, name.encode())
        case ["build", "--quiet", "--tag", name, "--file", dockerfile, "-"]:
            build(name, dockerfile)
        case ["run", *rest]:
            return run(rest)
        case ["rm", "--force", "--volumes", name]:
            remove(STATE / "containers" / name)
        case _:
            sys.exit(f"unknown command: {arguments}")
    return 0


def image(name: str) -> str:
    tag = STATE / "tags" / urllib.parse.quote(name, safe="")
    if tag.exists():
        return tag.read_text()
    if (STATE / "images" / name).exists():
        return name
    sys.exit(f"Error response from daemon: No such image: {name}")


def add(name: str, content: bytes) -> Path:
    id_ = hashlib.sha256(content).hexdigest()
    (STATE / "tags" / urllib.parse.quote(name, safe="")).write_text(id_)
    folder = STATE / "images" / id_
    folder.mkdir(exist_ok=True)
    return folder


def build(name: str, dockerfile: str) -> None:
    content = sys.stdin.buffer.read()
    with tempfile.TemporaryDirectory() as unpacked:
        (Path(unpacked) / "context").write_bytes(content)
        with tarfile.open(Path(unpacked) / "context") as context:
            context.extractall(unpacked, filter="data")
        steps = [line.split() for line in (Path(unpacked) / dockerfile).read_text().splitlines()]
        assert [step[0] for step in steps] == ["FROM", "COPY", "WORKDIR"], steps
        assert steps[1][2] == steps[2][1]
        if steps[0][1].startswith("unknown"):
            sys.exit(f"ERROR: failed to solve: {steps[0][1]}: pull access denied")
        shutil.copytree(Path(unpacked) / steps[1][1], add(name, content), dirs_exist_ok=True)


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--rm", "--init"):
        parser.add_argument(flag, action="store_true", required=True)
    for name in ("--name", "--gpus", "--network"):
        parser.add_argument(name)
    for name in ("--volume", "--env", "--env-file"):
        parser.add_argument(name, action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    env = dict(line.split("=", 1) for file in given.env_file for line in Path(file).read_text().splitlines())
    env |= {name: os.environ[name] for name in given.env if name in os.environ}
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # as an image has some
    command = given.command
    for volume in given.volume:
        source, target = volume.split(":")[:2]
        command = [word.replace(target, source) for word in command]
        env = {name: value.replace(target, source) for name, value in env.items()}
    container = STATE / "containers" / given.name
    container.mkdir()
    (container / "client").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid(container), signal.SIGTERM))
    start(container, command, STATE / "images" / given.image, {**own, **env})
    code = container / "code"
    while container.exists() and not code.exists():
        time.sleep(TICK)
    ended = -signal.SIGKILL
    with contextlib.suppress(FileNotFoundError):
        ended = int(code.read_text())
    shutil.rmtree(container, ignore_errors=True)
    return ended if ended >= 0 else 128 - ended


def start(container: Path, command: list[str], folder: Path, env: dict[str, str]) -> None:
    """Have the engine, which is no child of the client, start a process and see to its end."""
    if (between := os.fork()) != 0:
        os.waitpid(between, 0)
        return
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        process = subprocess.Popen(command, cwd=folder, env=env, start_new_session=True)
        write(container / "pid", process.pid)
        write(container / "code", process.wait())
    except FileNotFoundError:
        if container.exists():
            write(container / "code", 127)
    finally:
        os._exit(0)


def write(path: Path, number: int) -> None:
    path.with_suffix(".new").write_text(str(number))
    path.with_suffix(".new").rename(path)


def pid(container: Path) -> int:
    while not (container / "pid").exists():
        time.sleep(TICK)
    return int((container / "pid").read_text())


def remove(container: Path) -> None:
    if not container.exists():
        return  # as `docker rm --force` has it
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.killpg(pid(container), signal.SIGKILL)
    shutil.rmtree(container, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
