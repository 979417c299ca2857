"""Studies that are written down without being run, in a store that MLflow uses for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlflow

from mlflow_hpo.tracking.history import HISTORY, WRITTEN, written_history


@contextmanager
def tracking_uri(uri: str) -> Iterator[None]:
    """Have MLflow use a store for a while."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def begin_study(client: mlflow.MlflowClient, experiment_id: str, task: str, metric: str) -> str:
    """Begin the parent run of a study that maximises a metric; return its id."""
    tags = {"hpo.kind": "study", "hpo.task": task, "hpo.metric": metric, "hpo.mode": "max"}
    run_id: str = client.create_run(experiment_id, tags=tags).info.run_id
    return run_id


def end_study(
    client: mlflow.MlflowClient, run_id: str, trials: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Write what a study leaves for later ones, and end it.

    Args:
        client: of the store.
        run_id: the parent run.
        trials: of each ``run_id``, ``params`` as text, and ``curve``; none failed.
        facts: about its data.
    """
    told = [{**trial, "trial": number, "failed": False} for number, trial in enumerate(trials)]
    client.log_text(run_id, written_history(told), HISTORY)
    client.log_text(run_id, json.dumps(dict(facts)), "data.json")
    client.set_tag(run_id, WRITTEN, str(len(told)))
    client.set_terminated(run_id)
