"""A disk that writes before it answers, on a machine whose disk answers at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

SYNC = 4.0  # milliseconds that the disk takes to write

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int slowly(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct timespec pause = {0, MICROSECONDS * 1000L};
    nanosleep(&pause, 0);
    return real(file);
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
"""


def slow_disk(folder: Path, milliseconds: float = SYNC) -> dict[str, str]:
    """Return what a process needs in its environment so that its `fsync` takes so many milliseconds more.

    Virtual and consumer disks answer before the data are safe, in a tenth of a millisecond; what it costs to
    write to a database then says nothing of disks that do not.

    Args:
        folder: where the library is compiled, which takes a C compiler.
        milliseconds: below 1000.
    """
    source, library = folder / "slow_disk.c", folder / "slow_disk.so"
    source.write_text(_SOURCE)
    define = f"-DMICROSECONDS={round(1000 * milliseconds)}"
    subprocess.run(["cc", "-shared", "-fPIC", define, "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}
