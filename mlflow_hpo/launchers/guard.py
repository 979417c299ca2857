"""The guard process: ends the process groups of a driver that died without ending them itself.

Run as a script; it needs nothing but the standard library. Its standard input is a pipe from the driver, with
a line ``+123`` for a group that begins and ``-123`` for one that is over. When the pipe is closed, the groups
that are left get SIGTERM, and SIGKILL after a while.
"""

from __future__ import annotations

import os
import signal
import sys
import time

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def main() -> None:
    """Keep the list, and clear it away in the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the driver's end is what counts
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        (groups.add if line[0] == "+" else groups.discard)(group)
    _send(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        _send(groups, 0)
    _send(groups, signal.SIGKILL)


def _send(groups: set[int], number: int) -> None:
    """Send a signal to the groups, and forget those that are no more."""
    for group in list(groups):
        try:
            os.killpg(group, number)
        except OSError:
            groups.discard(group)


if __name__ == "__main__":
    main()
