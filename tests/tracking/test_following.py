"""Reading runs that scripts write to."""

from __future__ import annotations

import math
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from processes import free_port

from mlflow_hpo.errors import StoreAwayError, StudyError
from mlflow_hpo.steps import Point
from mlflow_hpo.tracking.following import Following, copy_metrics
from mlflow_hpo.tracking.transport import hasten


@pytest.fixture
def following(store: MlflowClient) -> Following:
    return Following(str(store.tracking_uri), "0")


def run_of(store: MlflowClient) -> str:
    run_id: str = store.create_run("0").info.run_id
    return run_id


def test_what_is_logged(following: Following, store: MlflowClient) -> None:
    run_id = run_of(store)
    store.log_metric(run_id, "acc", 0.5, timestamp=1000, step=0)
    store.log_metric(run_id, "acc", math.inf, timestamp=2500, step=1)
    store.log_metric(run_id, "loss", 2.0, timestamp=3000, step=7)
    assert following.logged(run_id, ["acc", "other"]) == {
        "acc": [Point(0, 1.0, 0.5), Point(1, 2.5, math.inf)],
        "other": [],
    }
    assert following.last_values(run_id)["loss"] == 2.0


def test_a_store_that_is_away() -> None:
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    hasten(uri)  # as a driver does for its store; MLflow alone would try for minutes
    following = Following(uri, "0")
    with pytest.raises(StoreAwayError, match="cannot read the metrics of the run") as told:
        following.logged("0" * 32, ["acc"])
    assert "secret" not in str(told.value)


def test_a_run_that_is_no_more(following: Following) -> None:
    with pytest.raises(StudyError, match="cannot read the metrics of the run") as told:
        following.last_values("0" * 32)
    assert not isinstance(told.value, StoreAwayError)


def test_the_environment_of_a_script(store: MlflowClient, tmp_path: Path) -> None:
    present = {"PATH": "/bin", "MLFLOW_EXPERIMENT_NAME": "other", "MLFLOW_RUN_ID": "parent"}
    assert Following("sqlite:///mlflow.db", "7").environment("run", present) == {
        "PATH": "/bin",
        "MLFLOW_RUN_ID": "run",
        "MLFLOW_EXPERIMENT_ID": "7",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",  # wherever the script runs
    }


def test_the_output_is_kept_without_passwords(
    following: Following, store: MlflowClient, tmp_path: Path
) -> None:
    run_id, path = run_of(store), tmp_path / "output.log"
    path.write_bytes(b"reading postgresql://me:secret@db.example/x\nnot UTF-8: \xff\n")
    following.keep_log(store.get_run(run_id).info.artifact_uri, path)
    text = mlflow.artifacts.load_text(f"runs:/{run_id}/output.log")
    assert text == "reading postgresql://db.example/x\nnot UTF-8: \N{REPLACEMENT CHARACTER}\n"


def test_metrics_are_copied_as_they_are(store: MlflowClient) -> None:
    before, after = run_of(store), run_of(store)
    for step in range(3):
        store.log_metric(before, "acc", step / 10, timestamp=1000 + step, step=step)
    store.log_metric(before, "best_acc", 0.2, step=3)
    copy_metrics(store, before, after, without="best_acc")
    assert [
        (point.step, point.timestamp, point.value) for point in store.get_metric_history(after, "acc")
    ] == [
        (0, 1000, 0.0),
        (1, 1001, 0.1),
        (2, 1002, 0.2),
    ]
    assert store.get_metric_history(after, "best_acc") == []
