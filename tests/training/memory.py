"""What the tests of the training share: a launcher's channel without the launcher, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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


def table(rows: int = 100) -> pd.DataFrame:
    """A table with about everything that tables have."""
    rng = np.random.default_rng(0)
    size = rng.normal(50, 10, rows)
    size[::7] = np.nan
    size[1] = np.inf
    return pd.DataFrame(
        {
            "size": size,
            "count": rng.integers(0, 1000, rows),
            "flag": rng.random(rows) < 0.5,
            "maybe": [None if at % 5 == 0 else bool(at % 2) for at in range(rows)],
            "colour": [None if at % 9 == 0 else ["red", "green", "blue"][at % 3] for at in range(rows)],
            "town": [f"town {at % 30}" for at in range(rows)],
            "name": [f"person {at}" for at in range(rows)],
            "day": [f"2024-{at % 12 + 1:02}-{at % 28 + 1:02}" for at in range(rows)],
            "constant": 3.0,
            "same": "x",
            "empty": np.nan,
            "label": [["yes", "no"][at % 2] for at in range(rows)],
        }
    )
