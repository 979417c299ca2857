"""Readings of the machine, by MLflow's own monitors and under their names."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pynvml  # noqa: F401  MLflow's GPU monitor works only where this is imported already
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor


class MachineMonitor:
    """Samples CPU, memory, disk, network and, where there are any, GPUs.

    MLflow's `SystemMetricsMonitor` asks the server for the run's status at every sample and writes by
    itself; its parts are used here without that, and the study's writer logs what they read.
    """

    def __init__(self) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(RuntimeError):  # no NVIDIA driver on this machine
            self._monitors.append(GPUMonitor())

    def sample(self) -> Mapping[str, float]:
        """Return the present readings as ``system/cpu_utilization_percentage`` and so on."""
        readings: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            readings |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return readings
