"""Searching a project as a user does it: `mlflow run URI --backend hpo`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from processes import clean_environment
from searching import Search, command

FOREIGN = Path(__file__).parent / "foreign"


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
