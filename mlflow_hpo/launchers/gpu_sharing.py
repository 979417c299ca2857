"""Sharing: how many trials a GPU takes at a time, by the memory that earlier ones needed."""

from __future__ import annotations

import logging

from mlflow_hpo.checks import finite_number
from mlflow_hpo.launchers.base import Slot
from mlflow_hpo.launchers.gpu_gauge import GpuMemory

logger = logging.getLogger(__name__)


def shared_gpu(slot: Slot) -> str | None:
    """Return the id of the GPU of which a slot has a part; None if it shares none."""
    return slot.env["CUDA_VISIBLE_DEVICES"] if slot.shares_gpu else None


class GpuSharing:
    """Admits trials to GPUs that others use.

    Each trial is taken to need as much as the greediest job so far. Until the first one has told its need,
    each GPU takes one trial at a time. One it always takes, so that a study never waits for nothing.

    Args:
        fraction: of a GPU's memory that trials may take.

    Raises:
        ConfigError: `fraction` is not above 0 and at most 1.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = finite_number("max_memory_fraction", fraction, above=0, at_most=1)
        self._peak = 0
        self._totals: dict[str, int] = {}  # bytes by GPU
        self._blind = False  # jobs do not tell

    def needed(self, gpu: str, memory: GpuMemory) -> None:
        """Take the need of a job that has trained for an epoch, or of one that found too little."""
        self._peak = max(self._peak, memory.peak)
        self._totals[gpu] = memory.total

    def untold(self) -> None:
        """Note that a job that has trained for an epoch, or lacked something, does not tell its need."""
        if not self._totals and not self._blind:
            self._blind = True
            logger.warning(
                "what the trials need of GPU memory is not known, as they do not use torch there: as many "
                "share a GPU as there are workers for it"
            )

    def has_room(self, gpu: str, running: int, idle: int) -> bool:
        """Whether a GPU takes one more trial.

        Args:
            gpu: its id.
            running: trials there.
            idle: bytes that workers without a job hold there.
        """
        if running == 0:
            return True
        if not self._totals:
            return self._blind
        if (total := self._totals.get(gpu)) is None:
            return False
        return self._peak * (running + 1) + idle <= self._fraction * total
