"""CUDA MPS: the user's daemon that lets kernels of several processes run on a GPU at the same time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mlflow_hpo.launchers.base import Slot

PIPES = "CUDA_MPS_PIPE_DIRECTORY"
SHARE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
DEFAULT_PIPES = "/tmp/nvidia-mps"  # noqa: S108  NVIDIA's own choice


def mps_pipes() -> str | None:
    """Return the folder by which the MPS daemon of this machine is reached; None if there is none."""
    folder = os.environ.get(PIPES) or DEFAULT_PIPES
    return folder if (Path(folder) / "control").exists() else None


def by_mps(slots: Iterable[Slot]) -> list[Slot]:
    """Give those slots that share a GPU their share of its processors, where the daemon runs.

    A share that the user has set stands.
    """
    pipes = mps_pipes()
    return [_limited(slot, pipes) if pipes is not None and slot.shares_gpu else slot for slot in slots]


def mps_in_words(slots: Iterable[Slot]) -> str:
    """Return what to say of a study's slots, "" if MPS is not used."""
    shares = {slot.env.get(SHARE) or os.environ.get(SHARE) for slot in slots if PIPES in slot.env}
    if not shares:
        return ""
    return f"CUDA MPS runs: trials that share a GPU get {', '.join(sorted(map(str, shares)))}% of it each"


def _limited(slot: Slot, pipes: str) -> Slot:
    share = {} if SHARE in os.environ else {SHARE: str(math.ceil(100 * slot.gpus - 1e-9))}
    return replace(slot, env={**slot.env, PIPES: pipes, **share})
