"""Finding the runs of a study in the tracking store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.tracking.connect import ask_all, without_passwords

PAGE = 250  # runs a request: they are large
NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # codes of errors; the id may be none


class TrialRun(NamedTuple):
    """The run of a trial, and the root of its artifacts."""

    run_id: str
    location: str

    def at_once(self) -> Future[TrialRun]:
        """Return it as one that need not be waited for."""
        future: Future[TrialRun] = Future()
        future.set_result(self)
        return future


def found_run(client: MlflowClient, run_id: str, field: str) -> Run:
    """Return a run.

    Raises:
        ConfigError: there is none; the field is `field`.
        StudyError: the store does not answer, or refuses.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        line = without_passwords(" ".join(str(error).split()))
        if error.error_code in NO_SUCH_RUN:
            raise ConfigError(field, f"no such run: {line:.200}") from None
        raise StudyError(f"MLFLOW_TRACKING_URI: cannot read run {run_id}: {line:.200}") from error


def check_study(run: Run, field: str) -> None:
    """Raise ConfigError for `field` unless this is the parent run of a study."""
    if run.data.tags.get("hpo.kind") != "study":
        raise ConfigError(field, f"{run.info.run_id} is not the parent run of a study (tag hpo.kind)")


def trial_runs(client: MlflowClient, parent: Run) -> Iterator[Run]:
    """Yield the runs of a study's trials, `PAGE` a request."""
    return ask_all(
        "MLFLOW_TRACKING_URI: cannot list the trials",
        client.search_runs,
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.`hpo.kind` = 'trial'",
        max_results=PAGE,
    )
