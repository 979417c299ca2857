"""What the C library's allocator does with memory that is freed."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Let the allocator keep what is freed rather than give it back to the kernel, where it is glibc's.

    A pack frees and takes some hundred megabytes in each step; memory that comes from the kernel has to be
    cleared, a page at a time.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, _KEPT)
