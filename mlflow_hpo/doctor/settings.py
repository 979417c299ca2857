"""Environment variables that lead a study astray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_hpo.doctor.findings import Finding, fault, ok, warning
from mlflow_hpo.tracking.connect import QUOTING, is_uri, public_uri

SUBJECT = "settings"
RUN_ID, NAME, ID = "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
ALLOWED = "MLFLOW_ALLOW_FILE_STORE"


def check_run_id() -> Iterator[Finding]:
    """Check that no run is named that the next study would take for its own."""
    if run_id := os.environ.get(RUN_ID):
        yield fault(
            SUBJECT,
            f"{RUN_ID}={run_id} is set: the next study would write its parent run into that run",
            f"unset {RUN_ID} (only `mlflow run` should set it)",
        )
    else:
        yield ok(SUBJECT, f"{RUN_ID} is not set")


def check_store_kind() -> Iterator[Finding]:
    """Check that the tracking store can be told, and is no folder of files, which MLflow has given up."""
    uri = mlflow.get_tracking_uri()
    if not is_uri(uri):
        yield fault(SUBJECT, "MLFLOW_TRACKING_URI is no URI", QUOTING)
        return
    if not is_file_store(uri):
        return
    folder = public_uri(uri).removeprefix("file://")
    cure = (
        f"mlflow migrate-filestore --source {folder} --target sqlite:///mlflow.db, then "
        "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    )
    text = f"MLFLOW_TRACKING_URI is a folder of files, {folder}: MLflow no longer maintains such stores"
    if os.environ.get(ALLOWED, "").lower() in ("true", "1"):
        yield warning(SUBJECT, f"{text}, and they are slow ({ALLOWED} is set)", cure)
    else:
        yield fault(SUBJECT, text, cure)


def check_experiment(client: MlflowClient, name: str | None) -> Iterator[Finding | Experiment]:
    """Check which experiment studies go to; yields it where it exists and is active.

    Args:
        client: of the tracking store.
        name: that the user asks for; None for what the settings say.
    """
    number = os.environ.get(ID) or None
    by_name = name or os.environ.get(NAME) or None
    found = client.get_experiment_by_name(by_name) if by_name else None
    if number and not name and by_name and (found is None or found.experiment_id != number):
        which = "does not exist" if found is None else f"has the id {found.experiment_id}"
        yield fault(
            "experiment",
            f"{ID}={number} and {NAME}={by_name} disagree: that experiment {which}",
            f"unset {ID}, or unset {NAME}",
        )
    if not by_name:
        try:
            found = client.get_experiment(number or "0")
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            said = f"{ID}={number}" if number else "no experiment is named, and the default one"
            yield fault(
                "experiment", f"{said}: does not exist", f"set {NAME}, or give --experiment; unset {ID}"
            )
            return
    if found is None:
        yield ok("experiment", f"{by_name!r} does not exist yet; the first study makes it")
    elif found.lifecycle_stage != "active":
        yield fault(
            "experiment",
            f"{found.name!r} is deleted",
            f"mlflow experiments restore --experiment-id {found.experiment_id}, or choose another name",
        )
    else:
        yield ok("experiment", f"{found.name!r} (id {found.experiment_id})")
        yield found


def is_file_store(uri: str) -> bool:
    """Return whether a tracking URI names a folder.

    >>> [is_file_store(uri) for uri in ("./runs", "file:///runs", "sqlite:///mlflow.db", "databricks")]
    [True, True, False, False]
    """
    return urlsplit(uri).scheme in ("", "file") and uri != "databricks"
