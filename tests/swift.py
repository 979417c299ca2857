"""OpenStack Swift as a durable S3 server: what it said it has stored survives ``kill -9``.

It comes from PyPI and lives in a virtual environment of its own, in the user's cache; Debian has the
libraries that it wants.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from platformdirs import user_cache_path
from processes import clean_environment, free_port, running
from server_processes import NotInstalledError
from stores import S3

REQUIREMENTS = ("setuptools==75.*", "swift>=2.33,<3")
USER, KEY = "test:tester", "testing"
HASHES = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
"""
SERVER = """
[DEFAULT]
devices = {folder}/devices
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = {user}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
user = {user}
[pipeline:main]
pipeline = catch_errors proxy-logging cache listing_formats s3api tempauth copy slo dlo proxy-logging \
proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


class SwiftS3(S3):
    """It as clients see it: the keys are Swift's."""

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {**super().env, "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": KEY}

    @cached_property
    def client(self) -> Any:
        """A boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=USER,
            aws_secret_access_key=KEY,
            region_name="us-east-1",
        )


@dataclass
class Swift:
    """A Swift of the tests' own; `s3` is how to use it."""

    s3: S3
    _commands: list[tuple[list[str], int]]
    _folder: Path
    _running: list[tuple[contextlib.ExitStack, list[int]]] = field(default_factory=list)

    def start(self) -> None:
        """Start all its servers, and wait until it answers."""
        stack, groups = contextlib.ExitStack(), []
        self._running.append((stack, groups))
        for number, (command, port) in enumerate(self._commands):
            process = stack.enter_context(
                running(
                    command,
                    ready=lambda port=port: _listens(port),
                    log=self._folder / f"server-{number}.log",
                    env=clean_environment(),
                )
            )
            groups.append(process.pid)

    def kill(self) -> None:
        """Kill all its servers at once, as a power cut would."""
        stack, groups = self._running.pop()
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        stack.close()

    def stop(self) -> None:
        """End what is running."""
        while self._running:
            self.kill()


@contextlib.contextmanager
def swift_s3(folder: Path) -> Iterator[Swift]:
    """Run a Swift that keeps everything in `folder`, an empty one; its `kill` and `start` make an outage.

    Raises:
        NotInstalledError: something that it needs is missing, and cannot be installed.
    """
    binaries = _installed()
    ports = {kind: free_port() for kind in ("memcached", "account", "container", "object", "proxy")}
    _configure(folder, binaries, ports)
    commands = [(_memcached(ports["memcached"]), ports["memcached"])]
    for kind in ("account", "container", "object", "proxy"):
        server = str(binaries / f"swift-{kind}-server")
        commands.append(([str(binaries / "python"), server, str(folder / f"{kind}.conf")], ports[kind]))
    swift = Swift(SwiftS3(f"http://127.0.0.1:{ports['proxy']}"), commands, folder)
    try:
        swift.start()
        yield swift
    finally:
        swift.stop()


def _installed() -> Path:
    """Return the folder of Swift's programs; it is installed into the user's cache the first time."""
    missing = [name for name in ("memcached",) if shutil.which(name) is None]
    if ctypes.util.find_library("erasurecode") is None:
        missing.append("liberasurecode1")
    if missing:
        raise NotInstalledError(f"Swift is not installed: Debian: apt-get install {' '.join(missing)}")
    home = user_cache_path("mlflow-hpo-tests") / "swift"
    home.parent.mkdir(parents=True, exist_ok=True)
    binaries, whole = home / "bin", home / "installed"
    with tempfile.NamedTemporaryFile() as log, (home.parent / "swift.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of other processes want it, too
        if whole.exists():
            return binaries
        try:
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(home)],
                [str(binaries / "python"), "-m", "pip", "install", "-q", *REQUIREMENTS],
            ):
                subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, timeout=250)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotInstalledError(f"Swift cannot be installed from PyPI: {error}") from None
        whole.touch()
    return binaries


def _configure(place: Path, binaries: Path, ports: dict[str, int]) -> None:
    """Write the settings and rings of one device on this machine, unless they are there."""
    if (place / "object.ring.gz").exists():
        raise NotInstalledError(f"{place} holds a Swift already")
    (place / "devices" / "d1").mkdir(parents=True)
    values = {"folder": place, "user": getpass.getuser(), "memcached": ports["memcached"]}
    (place / "swift.conf").write_text(HASHES)
    (place / "proxy.conf").write_text(PROXY.format(**values, port=ports["proxy"]))
    for kind in ("account", "container", "object"):
        (place / f"{kind}.conf").write_text(SERVER.format(**values, port=ports[kind], kind=kind))
        for words in (
            ("create", "6", "1", "1"),
            ("add", f"r1z1-127.0.0.1:{ports[kind]}/d1", "1"),
            ("rebalance",),
        ):
            builder = [str(binaries / "swift-ring-builder"), str(place / f"{kind}.builder"), *words]
            subprocess.run(builder, check=True, capture_output=True, cwd=place, env=clean_environment())


def _memcached(port: int) -> list[str]:
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "16"]
    return [*command, "-u", getpass.getuser()] if os.getuid() == 0 else command


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True
