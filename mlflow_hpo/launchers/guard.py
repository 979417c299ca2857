"""The guard process: ends the process groups of a driver that died without ending them itself.

Run as a script; it needs nothing but the standard library. Its standard input is a pipe from the driver, with
a line ``+123 []`` for a group that begins and ``-123`` for one that is over; in the brackets stands, as JSON,
the command that ends what the group runs out of reach of signals, such as a container. When the pipe is
closed, the groups that are left get SIGTERM, and SIGKILL after a while; then these commands are run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
ENDING = 60.0  # seconds that the commands get


def main() -> None:
    """Keep the list, and clear it away in the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the driver's end is what counts
    endings: dict[int, list[str]] = {}
    for line in sys.stdin:
        group, _, ending = line[1:].partition(" ")
        if line[0] == "+":
            endings[int(group)] = json.loads(ending)
        else:
            endings.pop(int(group), None)
    groups = set(endings)
    _send(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        _send(groups, 0)
    _send(groups, signal.SIGKILL)
    _run(ending for ending in endings.values() if ending)


def _send(groups: set[int], number: int) -> None:
    """Send a signal to the groups, and forget those that are no more."""
    for group in list(groups):
        try:
            os.killpg(group, number)
        except OSError:
            groups.discard(group)


def _run(endings: Iterable[list[str]]) -> None:
    """Run the commands at the same time; also for groups that are no more, as they may have been killed."""
    nowhere = subprocess.DEVNULL
    running = []
    for ending in endings:
        with contextlib.suppress(OSError):
            running.append(subprocess.Popen(ending, stdin=nowhere, stdout=nowhere, stderr=nowhere))
    deadline = time.monotonic() + ENDING
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    main()
