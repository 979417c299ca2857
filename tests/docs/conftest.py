"""A folder as the guide takes it for granted: data, searches, projects, and a store with a study."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from preloaded import preloaded
from processes import clean_environment
from snippets import ROOT, snippets
from workshop import Workshop

PROJECT = Path(__file__).parent / "project"
SEARCH = {
    "metric": {"name": "val_accuracy", "mode": "max"},
    "space": {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}},
    "searcher": "random",
    "scheduler": "successive_halving",
    "max_resource": 3,
    "trials": 2,
}


@pytest.fixture(scope="module")
def environment(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a store of its own, in which commands start at once."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    remote = tmp_path_factory.mktemp("remote") / "project"
    _as_repository(PROJECT, remote)
    with preloaded(tmp_path_factory.mktemp("preloaded")) as commands:
        yield clean_environment(
            PATH=f"{commands}{os.pathsep}{os.environ['PATH']}",
            MLFLOW_TRACKING_URI=f"sqlite:///{folder / 'mlflow.db'}",
            MLFLOW_HPO_CACHE=str(folder / "cache"),
            MLFLOW_HPO_SPOOL=str(folder / "spool"),
            GIT_CONFIG_COUNT="1",
            GIT_CONFIG_KEY_0=f"url.{remote}.insteadOf",
            GIT_CONFIG_VALUE_0="https://github.com/you/project",
        )


@pytest.fixture(scope="module")
def workshop(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The folder of the guide; its study is one of the bundled training."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(PROJECT / "train.sh", folder)
    shutil.copy(PROJECT / "train.py", folder)
    rng = np.random.default_rng(0)
    rooms, size = rng.integers(1, 6, 60), rng.normal(90, 20, 60)
    rows = "".join(f"{r},{s:.1f},{r * 20 + s:.1f}\n" for r, s in zip(rooms, size, strict=True))
    for name in ("houses.csv", "train.csv"):
        (folder / name).write_text(f"rooms,size,price\n{rows}")
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    of_project = next(each for each in snippets(ROOT / "docs" / "projects.md") if each.language == "json")
    sweep = next(each for each in snippets(ROOT / "docs" / "coming-from.md") if each.language == "yaml")
    (folder / "sweep.yaml").write_text(sweep.text)
    small = {"max_resource": 3, "trials": 2, "workers": 1, "project": {"poll_interval": 0.1}}
    (folder / "search.json").write_text(json.dumps(json.loads(of_project.text) | small))
    made = Workshop(folder, environment)
    done = made.run(
        "mlflow experiments create -n flats; mlflow experiments create -n offices\n"
        "mlflow-hpo run --config search.yaml --experiment digits"
    )
    assert done.returncode == 0, done.stdout
    client = mlflow.MlflowClient(environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("digits")
    [study] = client.search_runs([experiment.experiment_id], "tags.`hpo.kind` = 'study'")
    done_already = {"mlflow-hpo run"}
    return Workshop(folder, environment, study.info.run_id, study.data.tags["hpo.best_run"], done_already)


def _as_repository(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    for command in (("init", "-q", "-b", "main"), ("add", "."), (*identity, "commit", "-q", "-m", "project")):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)
