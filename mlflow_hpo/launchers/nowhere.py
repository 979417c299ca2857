"""Services for a training of which nothing is to be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from mlflow_hpo.errors import CorruptCheckpointError
from mlflow_hpo.steps import Point


class Nowhere:
    """What `Services` are to a worker: nothing is kept."""

    def checkpoints(self, location: str) -> _NoCheckpoints:
        """Return a store that forgets."""
        del location
        return _NoCheckpoints()

    def monitor(self) -> _NoReadings:
        """Return a monitor without readings."""
        return _NoReadings()

    def check(self) -> None:
        """Find nothing wrong, as nothing is stored."""

    def within(
        self, params: Mapping[str, Any], reported: Set[str], run_id: Callable[[], str]
    ) -> contextlib.AbstractContextManager[None]:
        """Stand aside."""
        del params, reported, run_id
        return contextlib.nullcontext()

    def environment(self, run_id: str, present: Mapping[str, str]) -> dict[str, str]:
        """Return the present one."""
        del run_id
        return dict(present)

    def logged(self, run_id: str, metrics: Sequence[str]) -> Mapping[str, Sequence[Point]]:
        """Return nothing."""
        del run_id, metrics
        return {}

    def last_values(self, run_id: str) -> dict[str, float]:
        """Return nothing."""
        del run_id
        return {}

    def keep_log(self, location: str, path: Path) -> None:
        """Let it go."""


class _NoCheckpoints:
    def upload(self, epoch: int, path: Path) -> str:
        """Let it go."""
        del epoch
        return path.name

    def names(self) -> list[tuple[int, str]]:
        """Return none."""
        return []

    def download(self, name: str, folder: Path) -> Path:
        """Raise, as there is none."""
        raise CorruptCheckpointError(f"{name} was not kept in {folder}")


class _NoReadings:
    def sample(self) -> dict[str, float]:
        """Return none."""
        return {}
