"""A launcher: where trials run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_hpo import Trial
from mlflow_hpo.launchers.base import Services
from mlflow_hpo.launchers.local import LocalLauncher


class ModestLauncher(LocalLauncher):
    """Worker processes on this machine that leave it to everybody else first."""

    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Start the workers."""
        super().start(Modest(trainable), services, folder)


@dataclass(frozen=True)
class Modest:
    """A training at the lowest priority."""

    train: Callable[[Trial], object]

    def __call__(self, trial: Trial) -> object:
        """Train."""
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        return self.train(trial)
