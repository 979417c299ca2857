"""The control groups that bound this process, as containers and batch systems make them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def groups(
    controller: str, membership: Path = MEMBERSHIP, mount: Path = MOUNT
) -> Iterator[tuple[Literal[1, 2], Path]]:
    """Yield the folders of the groups that may bound what a controller gives to this process.

    Every group up to the root may have a limit. Each comes with the version of control groups
    (https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/), which tells how its files are
    called; whether they are there is not looked at. Nothing where the kernel is not Linux.

    Args:
        controller: "memory" or "cpu".
        membership: the file that tells the groups of this process.
        mount: where the control groups are mounted.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version: Literal[1, 2]
        if controllers == "":
            version, top = 2, mount
        elif controller in controllers.split(","):
            version, top = 1, mount / controller
        else:
            continue
        group = top / path.lstrip("/")
        # inside of a container the path may be that of the host, and its own group is mounted at the top
        for folder in {top, group, *(each for each in group.parents if each.is_relative_to(top))}:
            yield version, folder
