"""Memory that is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from mlflow_hpo.launchers.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_that_was_freed_is_taken_again_without_the_kernel(keep: bool) -> None:
    words = [sys.executable, "-c", PROGRAM, "keep" if keep else "not"]
    faults = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    pages = (64 << 20) // 4096
    assert faults < pages / 100 if keep else faults > pages / 2
