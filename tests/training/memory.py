"""A channel in memory: what a launcher is to a trial, without the launcher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.trial import Trial

CLOCKED = ("epoch_seconds", "samples_per_second")


class MemoryChannel:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: dict[int, dict[str, float]] = {}
        self.newest: tuple[int, Path] | None = None

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.reports[epoch] = dict(metrics)
        return True

    def save(self, epoch: int, path: Path) -> None:
        kept = self.folder / f"{epoch}.pt"
        kept.write_bytes(path.read_bytes())
        self.newest = (epoch, kept)

    def load(self) -> tuple[int, Path] | None:
        return self.newest

    @property
    def curve(self) -> dict[int, dict[str, float]]:
        """The reports without what depends on the clock."""
        return {
            epoch: {name: value for name, value in metrics.items() if name not in CLOCKED}
            for epoch, metrics in self.reports.items()
        }


def run(
    training: BundledTraining, params: Mapping[str, Any], channel: MemoryChannel, *, stop: int, seed: int = 7
) -> None:
    training(Trial(params, stop=stop, seed=seed, device="cpu", channel=channel))
