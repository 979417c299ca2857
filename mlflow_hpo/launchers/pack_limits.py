"""How large packs may be: what an epoch needs is measured, and so is what there is."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from pathlib import Path

import psutil

from mlflow_hpo.launchers.host_memory import free_memory

FIRST = 4  # trials of a pack whose need is not known yet
SHARE = 0.8  # of the memory that is free, so that others find some, too
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PackLimits:
    """The sizes of packs on one device, by their keys.

    The first pack of a key is small. From what its epoch needed of memory follows how many trials fit into
    what is free; the least that ever was too much bounds it, too.

    Args:
        device: "cuda:0" or "cpu".
    """

    def __init__(self, device: str) -> None:
        self._memory = _GpuMemory(device) if device.startswith("cuda") else _HostMemory()
        self._sizes: dict[Hashable, int] = {}
        self._too_many: dict[Hashable, int] = {}

    def size(self, key: Hashable) -> int:
        """Return how many trials may train together."""
        return max(1, min(self._sizes.get(key, FIRST), self._too_many.get(key, 2 << 30) - 1))

    def lacked(self, key: Hashable, trials: int) -> None:
        """Note that there was not enough memory for so many."""
        self._too_many[key] = min(self._too_many.get(key, trials), trials)

    @contextlib.contextmanager
    def measured(self, key: Hashable, trials: int) -> Iterator[None]:
        """Around an epoch of so many trials, none of which may be measured at the same time elsewhere."""
        if self._sizes.get(key, 0) > trials:
            yield
            return
        before = self._memory.begin()
        yield
        # a need that is too small to be seen bounds nothing
        each = max(self._memory.peak() - before, 1 << 16) / trials
        fit = int(SHARE * self._memory.free() / each)
        self._sizes[key] = max(fit, trials)


class _HostMemory:
    """Resident memory of this process, and what is left for it."""

    def begin(self) -> int:
        """Forget the peak so far; return what is in use."""
        with contextlib.suppress(OSError):  # where that is forbidden the peak is that of all the time
            _CLEAR.write_text("5")
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> int:
        """Return the most that was in use since."""
        with contextlib.suppress(OSError, StopIteration, ValueError):
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) << 10
        return int(psutil.Process().memory_info().rss)

    def free(self) -> int:
        """Return what may still be used."""
        return free_memory()


class _GpuMemory:
    """Memory of one GPU, as torch's allocator sees it."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = torch.device(device)

    def begin(self) -> int:
        """Forget the peak so far; return what is in use."""
        self._cuda.reset_peak_memory_stats(self._device)
        return int(self._cuda.memory_allocated(self._device))

    def peak(self) -> int:
        """Return the most that was in use since."""
        return int(self._cuda.max_memory_allocated(self._device))

    def free(self) -> int:
        """Return what may still be used: what nobody has, and what the allocator keeps for this process."""
        free, _ = self._cuda.mem_get_info(self._device)
        kept = self._cuda.memory_reserved(self._device) - self._cuda.memory_allocated(self._device)
        return int(free + kept)
