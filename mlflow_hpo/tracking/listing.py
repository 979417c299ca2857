"""Listing the studies that the tracking store holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.tracking.connect import ask, ask_all, connect
from mlflow_hpo.tracking.runs import PAGE
from mlflow_hpo.tracking.summary import CHANGED, best_metric

_PROBLEM = "MLFLOW_TRACKING_URI: cannot list the studies"


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study as its parent run alone tells of it; times are seconds since 1970.

    `best` is None until a trial has a value, `ended` while the study runs. `trials_planned` is None where
    the run does not say.
    """

    run_id: str
    name: str
    experiment: str
    status: str
    metric: str
    mode: str
    best: float | None
    trials_started: int
    trials_planned: int | None
    started: float
    ended: float | None
    reason: str

    @property
    def seconds(self) -> float:
        """How long it ran, or has run so far."""
        return (time.time() if self.ended is None else self.ended) - self.started


def list_studies(experiment: str | None = None) -> list[ListedStudy]:
    """Return the studies of an experiment, or of all active ones, the latest first.

    Raises:
        ConfigError: there is no such active experiment.
        StudyError: the store is unreachable.
    """
    client = connect()
    names = dict(_experiments(client, experiment))
    if not names:
        return []
    runs = ask_all(_PROBLEM, client.search_runs, list(names), "tags.`hpo.kind` = 'study'", max_results=PAGE)
    studies = [_listed(run, names[run.info.experiment_id]) for run in runs]
    return sorted(studies, key=lambda study: (-study.started, study.run_id))


def _experiments(client: MlflowClient, name: str | None) -> Iterator[tuple[str, str]]:
    if name is None:
        for each in ask_all(
            _PROBLEM, client.search_experiments, view_type=ViewType.ACTIVE_ONLY, max_results=PAGE
        ):
            yield each.experiment_id, each.name
        return
    found = ask(_PROBLEM, client.get_experiment_by_name, name)
    if found is None or found.lifecycle_stage != "active":
        raise ConfigError("experiment", f"there is no active experiment {name!r:.100}")
    yield found.experiment_id, found.name


def _listed(run: Run, experiment: str) -> ListedStudy:
    tags, metrics = run.data.tags, run.data.metrics
    metric = tags.get("hpo.metric", "")
    return ListedStudy(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=experiment,
        status=run.info.status,
        metric=metric,
        mode=tags.get("hpo.mode", ""),
        best=metrics.get(best_metric(metric)),
        trials_started=int(metrics.get("trials_started", 0)),
        trials_planned=_planned(run),
        started=run.info.start_time / 1000,
        ended=None if run.info.end_time is None else run.info.end_time / 1000,
        reason=tags.get("hpo.stop_reason", ""),
    )


def _planned(run: Run) -> int | None:
    """Return how many trials a study is to have; anybody may have written into its tags."""
    try:
        changed = json.loads(run.data.tags.get(CHANGED, "{}"))
        return int(changed.get("trials", run.data.params["hpo.trials"]))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
