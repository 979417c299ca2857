"""Following runs that others write: what a script has logged, and its output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlflow.entities import Metric
from mlflow.environment_variables import (
    MLFLOW_EXPERIMENT_ID,
    MLFLOW_EXPERIMENT_NAME,
    MLFLOW_RUN_ID,
    MLFLOW_TRACKING_URI,
)
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StoreAwayError, StudyError
from mlflow_hpo.steps import Point
from mlflow_hpo.tracking.connect import anywhere, without_passwords
from mlflow_hpo.tracking.logged import logged_value
from mlflow_hpo.tracking.outage import is_final
from mlflow_hpo.tracking.transport import own_retries

BATCH = 1_000  # metrics that MLflow takes in a request
LOG_SIZE = 4 * 2**20  # bytes of a script's output that are kept


class Following:
    """Reads runs that scripts write to; whoever asks tries again by himself. Thread-safe.

    Args:
        tracking_uri: of the store.
        experiment_id: of the runs.
    """

    def __init__(self, tracking_uri: str, experiment_id: str) -> None:
        self._tracking_uri = tracking_uri
        self._experiment_id = experiment_id

    def environment(self, run_id: str, present: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a script that logs to a run, made of the present one."""
        own = {
            MLFLOW_RUN_ID.name: run_id,
            MLFLOW_TRACKING_URI.name: anywhere(self._tracking_uri),
            MLFLOW_EXPERIMENT_ID.name: self._experiment_id,
        }
        # the experiment is told by its id, and MLflow refuses two that differ
        return {**{k: v for k, v in present.items() if k != MLFLOW_EXPERIMENT_NAME.name}, **own}

    def logged(self, run_id: str, metrics: Sequence[str]) -> Mapping[str, Sequence[Point]]:
        """Return all that is logged to a run of some metrics, one request each, in their order.

        Raises:
            StoreAwayError: the store does not answer.
            StudyError: it never will, such as for a run that was deleted.
        """
        client = MlflowClient(self._tracking_uri)
        with _reading():
            return {
                name: [
                    Point(point.step, point.timestamp / 1000, logged_value(point.value))
                    for point in client.get_metric_history(run_id, name)
                ]
                for name in metrics
            }

    def last_values(self, run_id: str) -> dict[str, float]:
        """Return the last value of each metric of a run; raises as `logged` does."""
        with _reading():
            return dict(MlflowClient(self._tracking_uri).get_run(run_id).data.metrics)

    def keep_log(self, location: str, path: Path) -> None:
        """Store the output of a script, its end if it is long, in the artifacts at `location`.

        Passwords in its URIs are left out. Raises whatever the store does.
        """
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_SIZE))
            text = file.read().decode(errors="replace")
        path.write_text(without_passwords(text), encoding="utf-8")
        get_artifact_repository(location, tracking_uri=self._tracking_uri).log_artifact(str(path))


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        with own_retries():
            yield
    except Exception as error:
        line = without_passwords(" ".join(str(error).split())) or type(error).__name__
        kind = StudyError if is_final(error) else StoreAwayError
        raise kind(f"cannot read the metrics of the run: {line:.300}") from error


def copy_metrics(client: MlflowClient, before: str, run_id: str, *, without: str) -> None:
    """Copy all metrics of the run `before`, with their steps and times, but the one called `without`.

    Raises:
        MlflowException: the store does not answer.
    """
    points = [
        Metric(name, point.value, point.timestamp, point.step)
        for name in client.get_run(before).data.metrics
        if name != without
        for point in client.get_metric_history(before, name)
    ]
    for begin in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[begin : begin + BATCH])
