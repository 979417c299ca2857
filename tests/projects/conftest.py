"""Searching a project as a user does it: `mlflow run URI --backend hpo`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from processes import clean_environment

FOREIGN = Path(__file__).parent / "foreign"


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


@pytest.fixture(scope="session")
def plugin() -> None:
    """Fails where the package is installed without its entry points, as an old editable one is."""
    if not entry_points(group="mlflow.project_backend", name="hpo"):
        pytest.fail("mlflow-hpo is not installed with its entry points: pip install again")


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a project that knows nothing of this package to a folder of its own."""

    def copied(name: str) -> Path:
        target: Path = shutil.copytree(FOREIGN / name, tmp_path / name)
        return target

    return copied


def command(uri: str | Path, keys: dict[str, Any], *flags: str) -> list[str]:
    """Return the command line that searches a project."""
    config = ["--backend", "hpo", "--backend-config", json.dumps(keys)]
    return [sys.executable, "-m", "mlflow", "run", str(uri), *config, "--env-manager", "local", *flags]


@pytest.fixture
def search(plugin: None, store: MlflowClient) -> Callable[..., Search]:
    """Searches a project to the end."""

    def run(uri: str | Path, keys: dict[str, Any], *flags: str, uri_of_store: str = "") -> Search:
        used = MlflowClient(uri_of_store) if uri_of_store else store
        done = subprocess.run(
            command(uri, keys, *flags),
            env=clean_environment(MLFLOW_TRACKING_URI=used.tracking_uri),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        return Search(done.returncode, done.stdout, used)

    return run
