"""The stores of a study as a container sees them: what must be mounted, and what its environment says."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow.environment_variables import MLFLOW_TRACKING_URI
from mlflow.projects import docker as mlflow_docker
from mlflow.projects.backend import local as mlflow_local
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import get_local_path_or_none

SQLITE = "sqlite:///"


def stores_for_containers(uri: str, experiment_id: str) -> tuple[list[str], dict[str, str]]:
    """Return volumes, as ``source:target``, and variables by which a container reaches the stores.

    Args:
        uri: of the tracking store, as it is understood in any folder.
        experiment_id: whose runs the container writes to.

    Raises:
        MlflowException: the store does not answer.
    """
    location = str(MlflowClient(uri).get_experiment(experiment_id).artifact_location)
    if (path := get_local_path_or_none(location)) is not None:
        os.makedirs(path, exist_ok=True)  # the engine would, as root, and nobody else could write there
    # of the whole experiment, unlike MLflow's: logged models lie beside the runs
    options, artifacts = mlflow_local._get_docker_artifact_storage_cmd_and_envs(location)
    volumes, tracking = _tracking(uri)
    return [*volumes, *_volumes(options)], {**tracking, **artifacts}


def _tracking(uri: str) -> tuple[list[str], dict[str, str]]:
    if not uri.startswith(SQLITE):
        options, variables = mlflow_docker.get_docker_tracking_cmd_and_envs(uri)
        return _volumes(options), variables
    # MLflow mounts the file alone, but SQLite keeps a log beside it that all who write must see
    file = Path(uri.removeprefix(SQLITE).partition("?")[0])
    inside = mlflow_docker._MLFLOW_DOCKER_TRACKING_DIR_PATH
    return [f"{file.parent}:{inside}"], {MLFLOW_TRACKING_URI.name: f"{SQLITE}{inside}/{file.name}"}


def _volumes(options: list[str]) -> list[str]:
    """Return the volumes of a list of options ``-v volume``."""
    return options[1::2]
