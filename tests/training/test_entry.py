from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from mlflow_hpo.training.entry import main
from mlflow_hpo.training.serving import MODEL_NAME

SMALL = ["--data", "wine", "--width", "8", "--epochs", "2", "--device", "cpu"]


def call(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def only_run(store: MlflowClient) -> Any:
    experiment = store.get_experiment_by_name("test")
    assert experiment is not None
    [run] = store.search_runs([experiment.experiment_id])
    return run


def test_as_a_process_with_a_run_of_its_own(store: MlflowClient, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_hpo.training.entry", *SMALL, "--register", "wines", "--dropout", ""],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "epoch 2  train_loss " in done.stdout
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.params["width"] == "8"
    assert run.data.params["dropout"] == "0.1"
    assert run.data.params["data"] == "wine"
    assert run.data.tags["data.classes"] == "3"
    history = store.get_metric_history(run.info.run_id, "val_accuracy")
    assert [metric.step for metric in history] == [1, 2]
    assert [file.path for file in store.list_artifacts(run.info.run_id, "checkpoints")] == [
        "checkpoints/checkpoint.pt"
    ]
    [logged] = store.search_logged_models([run.info.experiment_id])
    assert logged.name == MODEL_NAME
    assert logged.params["width"] == "8"
    model = mlflow.pyfunc.load_model("models:/wines/1")
    assert len(model.predict(model.input_example)) == 5


def test_it_goes_on_with_the_run_that_mlflow_run_began(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = store.create_experiment("test")
    begun = store.create_run(experiment)
    for name, value in {"width": "8", "dropout": "", "data": "wine"}.items():
        store.log_param(begun.info.run_id, name, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", begun.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    result = call(*SMALL, "--dropout", "", "--seed", "3.0")
    assert result.exit_code == 0, result.output
    run = only_run(store)
    assert run.info.run_id == begun.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["dropout"] == ""  # as logged before: params cannot change
    assert run.data.params["seed"] == "3"
    settings = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/training.json")
    assert settings["dropout"] == 0.1


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--data", "nope"], "error: data: got 'nope'; allowed: digits"),
        (["--target", "y"], "error: target: the bundled data 'digits' has its own target"),
        (["--epochs", "0"], "error: epochs: must be a whole number of 1 or more, got '0'"),
        (["--seed", "x"], "error: seed: must be a whole number"),
        (["--learning-rate", "fast"], "error: learning_rate: must be a number, got 'fast'"),
        (["--learning-rate", "nan"], "error: learning_rate: must be a finite number, got 'nan'"),
        (["--optimizer", "foo"], "error: optimizer: allowed: adam, adamw, sgd; got 'foo'"),
        (["--device", "tpu"], "error: device: must be one of cpu"),
        (["--bf16", "perhaps"], "error: bf16: must be true or false, got 'perhaps'"),
    ],
)
def test_bad_input_is_told_in_one_line_and_begins_no_run(
    args: list[str], problem: str, store: MlflowClient
) -> None:
    result = call(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith(problem)
    assert result.stderr.count("\n") == 1
    assert store.get_experiment_by_name("test") is None


def test_a_failure_at_run_time(store: MlflowClient) -> None:
    diverging = ["--data", "diabetes", "--optimizer", "sgd", "--learning-rate", "100", "--epochs", "20"]
    args = [*diverging, "--normalisation", "none", "--schedule", "constant", "--device", "cpu"]
    result = call(*args)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: training diverged: train_loss ")
    assert "Traceback" not in result.stderr
    assert only_run(store).info.status == "FAILED"
    assert isinstance(call(*args, "--debug").exception, RuntimeError)
