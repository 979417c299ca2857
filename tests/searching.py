"""Searching a project as a user does it, and what that leaves."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient


@dataclass
class Search:
    """What `mlflow run` left: its exit code, its output, and the runs."""

    code: int
    output: str
    store: MlflowClient

    @property
    def study(self) -> Run:
        """The one parent run."""
        (study,) = self._runs("study")
        return study

    @property
    def trials(self) -> list[Run]:
        """The trials in their order."""
        return sorted(self._runs("trial"), key=lambda run: int(run.data.tags["hpo.trial"]))

    @property
    def attempts(self) -> list[Run]:
        """The runs of trials that were trained again."""
        return self._runs("attempt")

    def steps(self, run: Run, metric: str) -> list[int]:
        """Return the steps of all values of a metric, in the order in which they were logged."""
        history = self.store.get_metric_history(run.info.run_id, metric)
        return [point.step for point in sorted(history, key=lambda point: point.timestamp)]

    def log(self, run: Run) -> str:
        """Return what the script of a trial has printed."""
        return Path(self.store.download_artifacts(run.info.run_id, "output.log")).read_text()

    def _runs(self, kind: str) -> list[Run]:
        ids = [experiment.experiment_id for experiment in self.store.search_experiments()]
        return list(self.store.search_runs(ids, f"tags.`hpo.kind` = '{kind}'"))


def command(uri: str | Path, keys: dict[str, Any], *flags: str) -> list[str]:
    """Return the command line that searches a project."""
    config = ["--backend", "hpo", "--backend-config", json.dumps(keys)]
    return [sys.executable, "-m", "mlflow", "run", str(uri), *config, "--env-manager", "local", *flags]
