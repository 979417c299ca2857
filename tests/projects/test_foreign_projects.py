"""Projects that know nothing of this package, each searched through `mlflow run --backend hpo`."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from server_processes import mlflow_server

ALPHAS = [0.0001, 1.0, 0.5]
SGD: dict[str, Any] = {
    "metric": {"name": "val_accuracy", "mode": "max"},
    "space": {"alpha": {"type": "categorical", "choices": ALPHAS}},
    "searcher": "grid",
    "max_resource": 9,
    "trials": 3,
    "workers": 1,
    "points": [{"alpha": alpha} for alpha in ALPHAS],
    "project": {"poll_interval": 0.1},
}


def test_scikit_learn_stops_early(search: Any, foreign: Callable[[str], Path]) -> None:
    project = foreign("sgd")
    done = search(project, SGD, "-P", "epochs=9")
    assert done.code == 0, done.output
    study, trials = done.study, done.trials
    assert study.info.status == "FINISHED"
    assert study.data.tags["mlflow.project.backend"] == "hpo"
    assert study.data.tags["hpo.task"] == "sgd-digits (epochs=9)"
    assert study.data.tags["mlflow.source.name"] == str(project)
    assert [float(run.data.params["alpha"]) for run in trials] == ALPHAS
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    best, *others = trials
    assert best.info.status == "FINISHED"
    assert done.steps(best, "val_accuracy") == list(range(9)), "each value once, as the script logged it"
    assert done.steps(best, "train_accuracy") == list(range(9))
    assert study.data.tags["hpo.best_run"] == best.info.run_id
    assert best.data.metrics["best_val_accuracy"] >= best.data.metrics["val_accuracy"]
    assert "epoch 8" in done.log(best)
    for run in others:
        assert run.info.status == "KILLED"
        assert run.data.tags["hpo.stop_reason"].startswith("stopped by the scheduler at epoch ")
        assert len(done.steps(run, "val_accuracy")) < 9
    assert "trial 1: stopped at epoch" in done.output, "progress is shown"
    assert list(project.glob("**/mlflow.db")) == []


def test_a_third_of_the_trials_may_fail(search: Any, foreign: Callable[[str], Path]) -> None:
    keys = {**SGD, "scheduler": "full", "max_resource": 2, "workers": 2}
    done = search(foreign("sgd"), keys, "-P", "epochs=2", "-P", "fail_above=0.9")
    assert done.code == 0, done.output
    assert done.study.info.status == "FINISHED"
    assert [run.info.status for run in done.trials] == ["FINISHED", "FAILED", "FINISHED"]
    tags = done.trials[1].data.tags
    assert tags["hpo.stop_reason"] == "the script ended with exit code 1: ValueError: alpha 1.0 is too large"
    assert "Traceback (most recent call last)" in tags["hpo.traceback"]


def test_a_git_repository(search: Any, foreign: Callable[[str], Path], tmp_path: Path) -> None:
    project, bare = foreign("sgd"), tmp_path / "bare.git"
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "project")):
        subprocess.run(["git", *command], cwd=project, check=True, capture_output=True)
    subprocess.run(["git", "clone", "-q", "--bare", project, bare], check=True, capture_output=True)
    shutil.rmtree(project)
    keys = {**SGD, "max_resource": 1, "trials": 1}
    names = ("--experiment-name", "of projects", "--run-name", "by git")
    done = search(f"file://{bare}", keys, "-P", "epochs=1", *names)
    assert done.code == 0, done.output
    assert [run.info.status for run in done.trials] == ["FINISHED"]
    assert list(Path(tempfile.gettempdir()).glob("mlflow-hpo-clone-*")) == []
    assert done.study.info.run_name == "by git"
    (experiment,) = {run.info.experiment_id for run in (done.study, *done.trials)}
    assert done.store.get_experiment(experiment).name == "of projects"
    tags = done.trials[0].data.tags
    assert tags["mlflow.source.name"] == f"file://{bare}"
    assert tags["mlflow.source.git.commit"]


@pytest.mark.skipif(importlib.util.find_spec("xgboost") is None, reason="xgboost is not installed")
def test_xgboost_with_autologging_is_told_its_rounds(search: Any, foreign: Callable[[str], Path]) -> None:
    keys = {
        "metric": {"name": "test-logloss", "mode": "min"},
        "space": {
            "learning_rate": {"type": "float", "low": 0.01, "high": 0.5, "log": True},
            "max_depth": {"type": "int", "low": 1, "high": 4},
        },
        "searcher": "random",
        "scheduler": {"name": "successive_halving", "eta": 3},
        "min_resource": 3,
        "max_resource": 9,
        "trials": 3,
        "workers": 2,
        "project": {"resource_parameter": "rounds", "poll_interval": 0.2},
    }
    done = search(foreign("boosting"), keys)
    assert done.code == 0, done.output
    assert sorted(run.info.status for run in done.trials) == ["FINISHED", "KILLED", "KILLED"]
    for run in done.trials:
        rounds = 9 if run.info.status == "FINISHED" else 3
        assert done.steps(run, "test-logloss") == list(range(rounds)), "none twice, though some trained twice"
        assert run.data.params["eta"] == run.data.params["learning_rate"]
        assert run.data.params["num_boost_round"] == str(rounds)
    (best,) = [run for run in done.trials if run.info.status == "FINISHED"]
    (attempt,) = done.attempts
    assert attempt.data.tags["mlflow.parentRunId"] == best.info.run_id
    assert attempt.info.status == "KILLED"
    assert done.study.data.metrics["epochs_spent"] == 3 * 3 + 9, "the first three of the best count twice"


def test_pytorch_goes_on_from_its_checkpoint(
    search: Any, foreign: Callable[[str], Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    np.savetxt(tmp_path / "data.csv", np.column_stack([X, X.sum(axis=1)]), delimiter=",")
    keys = {
        "metric": {"name": "loss", "mode": "min"},
        "space": {
            "lr": {"type": "float", "low": 0.0001, "high": 0.1, "log": True},
            "activation": {"type": "categorical", "choices": ["relu", "tanh"]},
        },
        "searcher": "random",
        "scheduler": {"name": "successive_halving", "eta": 3},
        "min_resource": 2,
        "max_resource": 6,
        "trials": 3,
        "workers": 2,
        "project": {
            "resource_parameter": "epochs",
            "checkpoint_parameter": "checkpoint",
            "poll_interval": 0.2,
        },
    }
    done = search(foreign("net"), keys, "-e", "train", "-P", f"data={tmp_path / 'data.csv'}")
    assert done.code == 0, done.output
    (best,) = [run for run in done.trials if run.info.status == "FINISHED"]
    assert done.steps(best, "loss") == [1, 2, 3, 4, 5, 6]
    assert best.data.params["epochs"] == "6"
    assert done.study.data.metrics["epochs_spent"] == 3 * 2 + 4, "nothing is trained twice"
    assert done.study.data.tags["hpo.task"].startswith("net:train (data=")


KILLED = """
import os, signal, sys, time, mlflow
epochs, checkpoint = int(sys.argv[1]), sys.argv[2]
done = int(open(checkpoint).read()) if os.path.exists(checkpoint) else 0
for epoch in range(done + 1, epochs + 1):
    mlflow.log_metric("loss", 1 / epoch, step=epoch)
    with open(checkpoint, "w") as file:
        file.write(str(epoch))
    if epoch == 4 and done == 0:
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_script_that_is_killed_goes_on_and_what_it_had_trained_counts_once(
    search: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "main.py").write_text(KILLED)
    (folder / "MLproject").write_text(
        "name: killed\nentry_points:\n  main:\n    parameters:\n      epochs: {type: float, default: 6}\n"
        "      checkpoint: {type: string, default: none}\n      x: {type: float, default: 0}\n"
        '    command: "python main.py {epochs} {checkpoint}"\n'
    )
    keys = {
        "metric": {"name": "loss", "mode": "min"},
        "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
        "searcher": "random",
        "scheduler": "full",
        "max_resource": 6,
        "trials": 1,
        "project": {
            "resource_parameter": "epochs",
            "checkpoint_parameter": "checkpoint",
            "poll_interval": 0.2,
        },
    }
    done = search(folder, keys)
    assert done.code == 0, done.output
    (run,) = done.trials
    assert done.steps(run, "loss") == [1, 2, 3, 4, 5, 6]
    assert len(done.attempts) == 1
    assert done.study.data.metrics["epochs_spent"] == 6


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_shell_script_that_talks_to_a_server(
    search: Any, foreign: Callable[[str], Path], store: MlflowClient, tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    keys = {
        "metric": {"name": "score", "mode": "max"},
        "space": {"width": {"type": "categorical", "choices": [8, 2, 3, 1, 6, 4]}},
        "searcher": "grid",
        "points": [{"width": width} for width in (8, 2, 3, 1, 6, 4)],
        "max_resource": 6,
        "trials": 6,
        "workers": 1,
        "project": {"poll_interval": 0.1},
    }
    label = 'it\'s $(touch hacked) `touch hacked` "quoted"; touch hacked'
    project = foreign("shell")
    with mlflow_server(store.tracking_uri, {}, folder, "--workers", "1") as uri:
        done = search(project, keys, "-e", "train.sh", "-P", f"label={label}", uri_of_store=uri)
        assert done.code == 0, done.output
        statuses = {int(run.data.params["width"]): run.info.status for run in done.trials}
        assert (statuses[8], statuses[3], statuses[6]) == ("FINISHED", "FAILED", "FAILED")
        assert {statuses[2], statuses[1], statuses[4]} == {"KILLED"}
        best, failed = done.trials[0], done.trials[2]
        assert done.steps(best, "score") == [1, 2, 3, 4, 5, 6]
        assert failed.data.tags["hpo.stop_reason"].endswith("exit code 3: a width of 3 is not supported")
        assert done.log(best) == f"label: {label}\n"
    assert list(tmp_path.glob("**/hacked")) == []
