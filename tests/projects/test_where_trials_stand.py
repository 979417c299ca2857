"""Where the trials of a project stand: what the search has heard, whatever their runs hold beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from mlflow_hpo.cli import main
from mlflow_hpo.tracking import scripts

FIRST_STEPS = ["0", "1", "none"]  # how scripts count
TRAIN = """
import sys
import mlflow

first = sys.argv[sys.argv.index("--first_step") + 1]
for epoch in range(3):
    step = {} if first == "none" else {"step": epoch + int(first)}
    mlflow.log_metric("score", float(epoch), **step)
"""
KEYS: dict[str, Any] = {
    "metric": {"name": "score", "mode": "max"},
    "space": {"first_step": {"type": "categorical", "choices": FIRST_STEPS}},
    "points": [{"first_step": first} for first in FIRST_STEPS],
    "searcher": "random",
    "scheduler": "full",
    "max_resource": 3,
    "trials": 3,
    "workers": 1,
    "project": {"poll_interval": 0.1},
}


def exported(run_id: str, *columns: str) -> list[tuple[str, ...]]:
    done = CliRunner().invoke(main, ["export", run_id, "--format", "csv"])
    assert done.exit_code == 0, done.output
    return [tuple(row[column] for column in columns) for row in csv.DictReader(io.StringIO(done.output))]


def test_the_value_is_that_of_the_last_epoch(
    search: Callable[..., Any], store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "steps"
    project.mkdir()
    (project / "train.py").write_text(TRAIN)
    done = search(project, KEYS, "-e", "train.py")
    assert done.code == 0, done.output
    run_id, trials = done.study.info.run_id, [run.info.run_id for run in done.trials]
    for trial, step in zip(trials, (3, 4, 0), strict=True):  # what a script still logs until it is stopped
        store.log_metric(trial, "score", 9.0, step=step)
    asked = []
    real = MlflowClient.get_metric_history

    def ask(self: MlflowClient, run_id: str, key: str) -> Any:
        asked.append(run_id)
        return real(self, run_id, key)

    monkeypatch.setattr(MlflowClient, "get_metric_history", ask)
    columns = ("epochs", "value", "best", "best_epoch")
    assert exported(run_id, *columns) == [("3", "2.0", "2.0", "3")] * 3
    assert asked == [], "the study has written them down"

    monkeypatch.setattr(scripts, "written_curves", lambda run_id: {})  # as if its driver was killed
    assert exported(run_id, *columns) == [("3", "2.0", "2.0", "3")] * 3
    assert sorted(asked) == sorted(trials)

    for trial in trials:  # nor was there time for their tags
        store.update_run(trial, status="RUNNING")
        for tag in ("hpo.epochs", "hpo.best_epoch"):
            store.delete_tag(trial, tag)
    assert exported(run_id, "status", *columns) == [("RUNNING", "3", "2.0", "2.0", "3")] * 3
