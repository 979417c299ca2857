"""What memory this process has."""

from __future__ import annotations

import re
from pathlib import Path


def memory(field: str) -> float:
    """Return a field of the kernel's status of this process in MiB: VmHWM, the peak, or VmRSS, the present.

    Unlike `ru_maxrss` the peak is not that of the parent before `exec`.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024
