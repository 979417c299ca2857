"""How many CPU cores this process may use: of the machine, or of the control group that bounds it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from mlflow_hpo.launchers.control_groups import MEMBERSHIP, MOUNT, groups


def usable_cores(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int:
    """Return how many cores this process may keep busy, part of one counted as one; 1 at least.

    The scheduler's affinity (`taskset`, cpusets) says which cores it may use, and knows nothing of a quota of
    their time (`docker run --cpus=2`): more threads than that are halted again and again.

    Args:
        membership: the file that tells the groups of this process.
        mount: where the control groups are mounted.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas(membership, mount))]))


def _quotas(membership: Path, mount: Path) -> Iterator[float]:
    """Yield the quotas of its groups, in cores."""
    for version, folder in groups("cpu", membership, mount):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # "max", or no such file
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (
                    int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
                )
            if quota > 0:  # version 1 has -1 for none
                yield quota / period
