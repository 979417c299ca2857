"""Idle GPUs: notices that a study pays for GPUs that do little, and says what seems to keep them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

PERIOD = 60.0  # seconds over which use is averaged
IDLE = 30.0  # per cent of use below which a GPU counts as idle
EMPTY = 0.25  # share of the slots without a job that leaves GPUs idle by itself
BUSY_CORE = 90.0  # per cent of a core that the processes of a trial keep busy

_UTILIZATION = re.compile(r"system/gpu_(\d+)_utilization_percentage")
_CPU = "system/process_cpu_utilization_percentage"


@dataclass(slots=True)
class _Sum:
    """Of readings, for their mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


class IdleGpus:
    """Averages what trials tell of their GPUs, and names the likely cause where those are idle.

    Each cause is told once.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._since: float | None = None
        self._start_over()

    def sampled(self, metrics: Mapping[str, float], gpus: str | None) -> None:
        """Take the system metrics of a running trial.

        Args:
            metrics: as MLflow's monitors name them.
            gpus: the numbers of the GPUs that it uses, separated by commas; None for all that there are.
        """
        its_own = None if gpus is None else gpus.split(",")
        uses = [
            value
            for name, value in metrics.items()
            if (found := _UTILIZATION.fullmatch(name)) and (its_own is None or found[1] in its_own)
        ]
        if not uses:
            return
        self._gpu.add(sum(uses) / len(uses))
        self._cpu.add(metrics.get(_CPU, 0.0))

    def look(self, now: float, *, busy: int, slots: int, uploads: int) -> str:
        """Return what to warn of, "" for nothing; to be called again and again.

        Args:
            now: seconds on any clock.
            busy: how many slots have a job,
            slots: of how many.
            uploads: checkpoints that have still to be stored.
        """
        if self._since is None:
            self._since = now
        self._empty.add(1 - busy / slots)
        self._uploads.add(uploads / slots)
        if now - self._since < PERIOD:
            return ""
        use, cause = self._gpu.mean, self._cause()
        seen = self._gpu.count > 0
        self._since = now
        self._start_over()
        if not seen or use >= IDLE or cause in self._told:
            return ""
        self._told.add(cause)
        return f"GPUs are {use:.0f}% busy over the last {PERIOD:.0f} seconds: {cause}"

    def _cause(self) -> str:
        if self._empty.mean > EMPTY:
            return (
                "slots wait for trials; the search has too few to hand out at once "
                "(fewer workers, or a scheduler that does not wait, such as asha)"
            )
        if self._uploads.mean > 1:
            return (
                "checkpoints wait to be stored; the artifact store is slower than the training "
                "(smaller checkpoints, or fewer of them)"
            )
        if self._cpu.mean >= BUSY_CORE:
            return (
                "the trials keep their CPU cores busy; it is likely that data are loaded or prepared there "
                "(more loading processes, or data that are kept on the GPU)"
            )
        return "the trainings are too small for the GPU (larger batches, or several trials on each GPU)"

    def _start_over(self) -> None:
        self._gpu, self._cpu, self._empty, self._uploads = _Sum(), _Sum(), _Sum(), _Sum()
