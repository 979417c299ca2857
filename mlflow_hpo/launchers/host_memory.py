"""How much memory this process may still take: of the machine, or of the control group that bounds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from mlflow_hpo.launchers.control_groups import MEMBERSHIP, MOUNT, groups


class _Files(NamedTuple):
    """The names of a version's files, and of the pages that go first when memory is short."""

    limit: str
    usage: str
    inactive: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int:
    """Return how many bytes may still be taken before something is killed or swapped out.

    Containers and batch systems bound a process by its control group, of which the machine's own figures
    tell nothing (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files).

    Args:
        membership: the file that tells the groups of this process.
        mount: where the control groups are mounted.
    """
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups(membership, mount)]))


def _left_in_groups(membership: Path, mount: Path) -> Iterator[int]:
    for version, folder in groups("memory", membership, mount):
        files = _V2 if version == 2 else _V1
        with contextlib.suppress(OSError, ValueError):  # without a limit: "max", or no such file
            limit = int((folder / files.limit).read_text())
            usage = int((folder / files.usage).read_text())
            yield limit - usage + _inactive(folder / "memory.stat", files.inactive)


def _inactive(stat: Path, name: str) -> int:
    pairs = (line.split() for line in stat.read_text().splitlines())
    return next((int(value) for key, value in pairs if key == name), 0)
