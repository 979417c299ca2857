"""Reading a study back from MLflow alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StudyError
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, connect
from mlflow_hpo.tracking.lease import driver
from mlflow_hpo.tracking.reached import reached
from mlflow_hpo.tracking.runs import check_study, found_run, trial_runs
from mlflow_hpo.tracking.scripts import ScriptTrials
from mlflow_hpo.tracking.settings import settings
from mlflow_hpo.tracking.summary import MODEL, StudySummary, TrialSummary, best_metric


def read_study(run_id: str) -> StudySummary:
    """Return the state of a study as its runs tell it.

    Args:
        run_id: the parent run.

    Raises:
        ConfigError: `run_id` is no run, or not the parent run of a study.
        StudyError: the store is unreachable.
    """
    client = connect()
    parent = found_run(client, run_id, "run_id")
    check_study(parent, "run_id")
    space, metric = read_space(run_id), parent.data.tags["hpo.metric"]
    scripts, trials = ScriptTrials(client, parent), {}
    for run in trial_runs(client, parent):
        trial = trials[run.info.run_id] = summarised_trial(run, space, metric)
        scripts.look(run, trial)
    return summarised(parent, (trials | scripts.found()).values())


def read_space(run_id: str) -> SearchSpace:
    """Return the search space of a study. Raises StudyError where the artifact store is unreachable."""
    return SearchSpace(json.loads(_text(run_id, "space.json")))


def summarised(parent: Run, trials: Iterable[TrialSummary]) -> StudySummary:
    """Return the state of a study as its parent run tells it, and that of its trials."""
    tags, metrics, params = parent.data.tags, parent.data.metrics, settings(parent)
    end = parent.info.end_time or int(time.time() * 1000)
    return StudySummary(
        run_id=parent.info.run_id,
        name=parent.info.run_name,
        experiment_id=parent.info.experiment_id,
        tracking_uri=mlflow.get_tracking_uri(),
        status=parent.info.status,
        metric=tags["hpo.metric"],
        mode=tags["hpo.mode"],
        searcher=_component_name(params["hpo.searcher"]),
        scheduler=_component_name(params["hpo.scheduler"]),
        trials_planned=int(params["hpo.trials"]),
        max_resource=int(params["hpo.max_resource"]),
        seconds=(end - parent.info.start_time) / 1000,
        epochs=int(metrics.get("epochs_spent", 0)),
        gpu_hours=metrics.get("gpu_hours_spent", 0.0),
        trials=tuple(sorted(trials, key=lambda trial: trial.trial_id)),
        budget=_budget(params),
        best_trial=int(tags["hpo.best_trial"]) if "hpo.best_trial" in tags else None,
        reason=tags.get("hpo.stop_reason", ""),
        model=tags.get(MODEL, ""),
    )


def summarised_trial(run: Run, space: SearchSpace, metric: str) -> TrialSummary:
    """Return the state of a trial as its run tells it. It is much smaller than the run."""
    tags, (epochs, best_epoch) = run.data.tags, reached(run, metric)
    texts = {name: text for name, text in run.data.params.items() if name in space.names}
    return TrialSummary(
        trial_id=int(tags["hpo.trial"]),
        run_id=run.info.run_id,
        status=run.info.status,
        params=space.parse(texts) if texts else {},  # a run has none in its first second
        bracket=int(tags["hpo.bracket"]),
        rung=int(tags["hpo.rung"]),
        epochs=epochs,
        value=run.data.metrics.get(metric),
        best=run.data.metrics.get(best_metric(metric)),
        best_epoch=best_epoch,
        seconds=float(tags.get("hpo.seconds", 0)),
        reason=tags.get("hpo.stop_reason", ""),
        infeasible=tags.get("hpo.infeasible", ""),
    )


def who_drives(run_id: str) -> str:
    """Return who may be at work on the study with this parent run, in words; "" for nobody.

    Raises:
        StudyError: the store is unreachable.
    """
    run = ask("MLFLOW_TRACKING_URI: cannot read the parent run", MlflowClient().get_run, run_id)
    return driver(run.data.tags)


def _budget(params: Mapping[str, str]) -> dict[str, float]:
    if "hpo.budget" in params:  # another one since it was resumed
        return json.loads(params["hpo.budget"]) or {}
    prefix = "hpo.budget."
    return {key.removeprefix(prefix): float(value) for key, value in params.items() if key.startswith(prefix)}


def _text(run_id: str, path: str) -> str:
    return ask(f"artifact store: cannot read {path}", mlflow.artifacts.load_text, f"runs:/{run_id}/{path}")


def _component_name(param: str) -> str:
    """Return the name in a param that holds a name, or the JSON of a mapping with one."""
    if not param.startswith("{"):
        return param
    try:
        return str(json.loads(param)["name"])
    except (json.JSONDecodeError, KeyError) as error:
        raise StudyError(f"the parent run's params are damaged: {param!r:.100}") from error
