"""Gauge: how much GPU memory a worker process takes, measured in that process."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any

CONTEXT = 600 << 20  # bytes that CUDA itself takes in a process, where NVML does not tell


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """What a worker takes of its GPU, and what there is, in bytes."""

    peak: int  # the most since its present, or last, job began
    held: int  # now
    total: int


class GpuGauge:
    """Measures from when it is made on, which is when a job begins.

    What torch's allocator reserves is known to the byte. What CUDA itself takes beside it only NVML knows,
    where it sees this process: inside a container it may not. Memory that other libraries reserve and a
    training that does not use torch are not measured.

    Args:
        device: "cuda:0" or "cpu".
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._context = CONTEXT
        with contextlib.suppress(RuntimeError):  # the job will meet it, too
            if (cuda := self._cuda()) is not None:
                cuda.reset_peak_memory_stats(device)

    def read(self) -> GpuMemory | None:
        """Return the present state; None while this process has not used a GPU by torch."""
        try:
            if (cuda := self._cuda()) is None:
                return None
            properties = cuda.get_device_properties(self._device)
            before, used = cuda.memory_reserved(self._device), used_here(f"GPU-{properties.uuid}")
            held = cuda.memory_reserved(self._device)
            if used is not None and used >= held == before:  # else the training goes on meanwhile
                self._context = used - held
            peak = cuda.max_memory_reserved(self._device)
        except RuntimeError:
            return None
        return GpuMemory(peak + self._context, held + self._context, int(properties.total_memory))

    def release(self) -> None:
        """Give back what the allocator keeps for the next job: others may need it meanwhile."""
        with contextlib.suppress(RuntimeError):  # after a failed kernel; such a worker is replaced
            if (cuda := self._cuda()) is not None:
                cuda.empty_cache()

    def _cuda(self) -> Any:
        """Return torch.cuda if this process has begun to use it; it is not imported for this."""
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        return cuda if self._device != "cpu" and cuda is not None and cuda.is_initialized() else None


def used_here(uuid: str) -> int | None:
    """Return the bytes of a GPU that this process uses, all told; None where NVML does not say."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            clients = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            with contextlib.suppress(pynvml.NVMLError):  # an older driver does not list those of MPS apart
                clients = [*clients, *pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    found: int | None = next((each.usedGpuMemory for each in clients if each.pid == os.getpid()), None)
    return found
