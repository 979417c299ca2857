"""Readings of the machine, by MLflow's own monitors and under their names, and of a trial's processes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil
import pynvml  # noqa: F401  MLflow's GPU monitor works only where this is imported already
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor


class MachineMonitor:
    """Samples CPU, memory, disk, network and, where there are any, GPUs; and this process and its children.

    MLflow's `SystemMetricsMonitor` asks the server for the run's status at every sample and writes by
    itself; its parts are used here without that, and the study's writer logs what they read.
    """

    def __init__(self) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(RuntimeError):  # no NVIDIA driver on this machine
            self._monitors.append(GPUMonitor())
        self._processes = ProcessTree()

    def sample(self) -> Mapping[str, float]:
        """Return the present readings as ``system/cpu_utilization_percentage`` and so on."""
        readings: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            readings |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        readings |= self._processes.sample()
        return {f"system/{name}": value for name, value in readings.items()}


class ProcessTree:
    """This process and all that it has started, such as those that load data."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._known: dict[int, psutil.Process] = {}  # each measures since it was asked last

    def sample(self) -> Mapping[str, float]:
        """Return the CPU use since the last sample, 100 being one core, and the memory in megabytes.

        Memory that processes share counts for each of them.
        """
        found = [self._root]
        with contextlib.suppress(psutil.Error):
            found += self._root.children(recursive=True)
        self._known = {each.pid: self._known.get(each.pid, each) for each in found}
        cpu = memory = 0.0
        for process in self._known.values():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                cpu += process.cpu_percent()
                memory += process.memory_info().rss / 1e6
        return {"process_cpu_utilization_percentage": cpu, "process_memory_usage_megabytes": memory}
