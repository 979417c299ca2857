"""The parent run of a new study: made, or taken from `mlflow run`."""

from __future__ import annotations

import os
from collections.abc import Mapping

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from mlflow_hpo.errors import StudyError


def open_parent(
    client: MlflowClient,
    context: Mapping[str, str],
    adopted: str | None,
    experiment: str | None,
    name: str | None,
) -> Run:
    """Return the parent run of a new study.

    Args:
        client: of the tracking store.
        context: tags that MLflow gives every run that is made here.
        adopted: the run that `mlflow run` made, if it did.
        experiment: name of the experiment, created if need be; None for the one that MLflow's settings name.
        name: of the run; None to let MLflow choose.

    Raises:
        StudyError: the experiment is deleted.
    """
    if adopted is not None:
        run = client.get_run(adopted)
        if name is not None:
            client.set_tag(adopted, MLFLOW_RUN_NAME, name)
        return run
    tags = dict(context)
    active = mlflow.active_run()
    if active is not None:
        tags[MLFLOW_PARENT_RUN_ID] = active.info.run_id
    return client.create_run(_experiment(client, experiment), tags=tags, run_name=name)


def _experiment(client: MlflowClient, name: str | None) -> str:
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if name is None:
        return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name)
    if found.lifecycle_stage != "active":
        raise StudyError(f"experiment: {name!r} is deleted; restore it or choose another name")
    return found.experiment_id
