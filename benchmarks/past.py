"""What is known of other tasks before a search begins: random trials, by way of a real MLflow store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from lcbench import LcBench, Task

from mlflow_hpo import History, SearchSpace

TRIALS = 100  # of each task
METRIC = "val_accuracy"
_EXPERIMENT = "history"
_TOP = 100.0  # an inverted value is what is missing to it


def past_trials(bench: LcBench, task: Task, seed: int, *, inverted: bool = False) -> list[dict[str, Any]]:
    """Return configuration and whole curve of each of the task's trials, others for each seed and task.

    Args:
        inverted: whether what is good is told to be bad: the history misleads.
    """
    rng = np.random.default_rng([seed, int(task.task_id)])
    problem = bench.problem(task)
    trials = []
    for _ in range(TRIALS):
        config = bench.space.sample(rng)
        values = problem.curve(config).values
        told = _TOP - values if inverted else values
        trials.append(
            {"config": config, "curve": [(1 + at, round(float(v), 6)) for at, v in enumerate(told)]}
        )
    return trials


def mined(bench: LcBench, tasks: Sequence[Task], seed: int, *, inverted: bool = False) -> History:
    """Write a study of each task into an MLflow store, as our own studies do, and mine it."""
    with _store():
        for task in tasks:
            _write(bench.space, task, past_trials(bench, task, seed, inverted=inverted))
        return History.from_mlflow([_EXPERIMENT], metric=METRIC, mode="max", space=bench.space)


def name_in_history(task: Task) -> str:
    """Return how `mined` names a task."""
    return f"{task.name} in {_EXPERIMENT}"


@contextmanager
def _store() -> Iterator[None]:
    import mlflow  # the peers' environment has none
    from studies import tracking_uri

    from mlflow_hpo.metalearning.cache import FOLDER

    # what is read of a store that goes away need not be kept
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {FOLDER: ""}),
        tracking_uri(f"sqlite:///{folder}/mlflow.db"),
    ):
        mlflow.create_experiment(_EXPERIMENT, artifact_location=Path(folder, "artifacts").as_uri())
        yield


def _write(space: SearchSpace, task: Task, trials: list[dict[str, Any]]) -> None:
    import mlflow
    from studies import begin_study, end_study

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    parent = begin_study(client, experiment.experiment_id, task.name, METRIC)
    told = [
        {
            "run_id": f"{task.task_id}-{number}",
            "params": space.format(trial["config"]),
            "curve": trial["curve"],
        }
        for number, trial in enumerate(trials)
    ]
    end_study(client, parent, told, task.facts)
