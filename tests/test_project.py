"""The MLproject as a user runs it: `mlflow run`, in the current environment and in one that uv makes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from processes import clean_environment

ROOT = Path(__file__).parents[1]
UV_OFFLINE = re.compile(r"error sending request|dns error|Failed to fetch|timed out|Network is unreachable")
SMALL = {"max_epochs": 2, "workers": 1}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what `mlflow run` needs, committed to a git repository."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mlflow_hpo", folder / "mlflow_hpo", ignore=ignored)
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "project")):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


def mlflow_run(
    project: Path,
    store: MlflowClient,
    *flags: str,
    manager: str = "local",
    env: dict[str, str] | None = None,
    **params: object,
) -> subprocess.CompletedProcess[str]:
    """Run an entry point with ``-P`` for each of `params`, from a folder elsewhere."""
    given = [part for name, value in params.items() for part in ("-P", f"{name}={value}")]
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager", manager, *flags, *given],
        env=clean_environment(MLFLOW_TRACKING_URI=store.tracking_uri, **(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )


def parent_and_children(store: MlflowClient) -> tuple[Run, list[Run]]:
    """Return the one run of the store that is not nested, and all others, which are."""
    runs = list(store.search_runs(["0"], max_results=1000))
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent, children


def steps(store: MlflowClient, run: Run, metric: str) -> list[int]:
    return sorted(point.step for point in store.get_metric_history(run.info.run_id, metric))


def test_main_is_a_search_in_the_run_that_mlflow_made(
    project: Path, store: MlflowClient, tmp_path: Path
) -> None:
    keys = yaml.safe_load((project / "mlflow_hpo/training/search.yaml").read_text())
    keys |= {"trials": 50, "seed": 7, "scheduler": {"name": "successive_halving", "eta": 2}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(keys))
    done = mlflow_run(project, store, config=tmp_path / "search.yaml", trials=3, **SMALL)
    assert done.returncode == 0, done.stdout
    parent, children = parent_and_children(store)
    assert f"Run (ID '{parent.info.run_id}') succeeded" in done.stdout
    tags, params = parent.data.tags, parent.data.params
    assert parent.info.status == "FINISHED"
    assert (tags["hpo.kind"], tags["mlflow.project.entryPoint"]) == ("study", "main")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project, check=True, capture_output=True, text=True
    )
    assert tags["mlflow.source.git.commit"] == head.stdout.strip()
    assert (params["hpo.trials"], params["hpo.max_resource"]) == ("3", "2")  # by flag
    assert (params["hpo.seed"], json.loads(params["hpo.scheduler"])) == ("7", keys["scheduler"])  # by file
    assert [run.data.tags["hpo.trial"] for run in sorted(children, key=lambda run: run.info.run_name)] == [
        *("0", "1", "2")
    ]
    assert {run.info.status for run in children} == {"FINISHED", "KILLED"}


def test_a_study_goes_on_through_mlflow_run(project: Path, store: MlflowClient) -> None:
    done = mlflow_run(project, store, trials=3, **SMALL)
    assert done.returncode == 0, done.stdout
    study, _ = parent_and_children(store)
    run_id = study.info.run_id
    done = mlflow_run(project, store, resume=run_id, trials=5)
    assert done.returncode == 0, done.stdout
    assert "trials was 3, is now 5" in done.stdout
    alone = [run for run in store.search_runs(["0"]) if "mlflow.parentRunId" not in run.data.tags]
    invocation, study = sorted(alone, key=lambda run: run.info.run_id == run_id)
    assert (invocation.info.status, study.info.status) == ("FINISHED", "FINISHED")
    assert invocation.data.tags["hpo.kind"] == "resume"
    assert invocation.data.tags["hpo.study"] == run_id
    trials = store.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert sorted(int(run.data.tags["hpo.trial"]) for run in trials) == list(range(5))

    done = mlflow_run(project, store, resume=run_id, data="wine")
    assert done.returncode != 0
    assert "data: must be as in the study which is resumed" in done.stdout


def test_bad_input_fails_the_run_and_starts_no_trial(project: Path, store: MlflowClient) -> None:
    done = mlflow_run(project, store, trials=0)
    assert done.returncode != 0
    assert "error: trials: must be greater than 0, got 0" in done.stdout
    assert "Traceback" not in done.stdout
    parent, children = parent_and_children(store)
    assert parent.info.status == "FAILED"
    assert children == []


def test_train_is_one_training(project: Path, store: MlflowClient) -> None:
    done = mlflow_run(project, store, "-e", "train", learning_rate=0.01, epochs=2, data="wine")
    assert done.returncode == 0, done.stdout
    check_training(store, *parent_and_children(store))


def check_training(store: MlflowClient, run: Run, children: list[Run]) -> None:
    """Check what ``-e train -P learning_rate=0.01 -P epochs=2 -P data=wine`` left."""
    assert children == []
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert (params["learning_rate"], params["epochs"], params["data"]) == ("0.01", "2", "wine")
    assert (params["optimizer"], params["width"]) == ("adam", "32")  # the defaults, told as they are
    assert steps(store, run, "val_accuracy") == [1, 2]
    assert "checkpoints" in [info.path for info in store.list_artifacts(run.info.run_id)]
    (model,) = store.search_logged_models(["0"])
    assert model.source_run_id == run.info.run_id


@pytest.fixture
def uv_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What uv needs to install conda.yaml into `tmp_path`; skips where that takes torch's CUDA build."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    env = {"MLFLOW_ENV_ROOT": str(tmp_path / "environments")}
    # uv does not read pip's settings; a folder with wheels serves both
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.endswith(".find-links"):
            env["UV_FIND_LINKS"] = ",".join(value.strip("'").split())
    env |= {name: value for name, value in clean_environment().items() if name.startswith("UV_")}
    pins = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"][-1]["pip"]
    resolved = subprocess.run(
        [uv, "pip", "compile", "-", "-q", "--no-header", "--no-annotate", "--python-version", "3.11"],
        input="\n".join(pins),
        env=clean_environment(**env),
        capture_output=True,
        text=True,
        check=False,
    )
    if resolved.returncode != 0 and UV_OFFLINE.search(resolved.stderr):
        pytest.skip(f"uv reaches no package index: {' '.join(resolved.stderr.split()):.200}")
    assert resolved.returncode == 0, resolved.stderr
    if re.search(r"(?m)^(nvidia-cublas|triton)", resolved.stdout):
        pytest.skip("uv finds torch's CUDA build only, of several GB; UV_FIND_LINKS may name a CPU build")
    yield env
    shutil.rmtree(tmp_path / "environments", ignore_errors=True)


@pytest.mark.timeout(900)
def test_uv_makes_the_environment_of_conda_yaml(
    project: Path, store: MlflowClient, uv_environment: dict[str, str]
) -> None:
    done = mlflow_run(project, store, manager="uv", env=uv_environment, trials=2, **SMALL)
    assert done.returncode == 0, done.stdout[-5000:]
    (environment,) = Path(uv_environment["MLFLOW_ENV_ROOT"]).glob("mlflow-*")
    assert f"source {environment}/bin/activate" in done.stdout
    parent, children = parent_and_children(store)
    assert parent.info.status == "FINISHED"
    assert len(children) == 2
