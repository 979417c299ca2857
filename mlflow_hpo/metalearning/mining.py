"""Mining: the history that studies left in MLflow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Experiment, Run, ViewType
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.history import History
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, connect
from mlflow_hpo.tracking.history import HISTORY, SCHEMA

_PAGE = 1000  # runs a request
_STATUSES = ("FINISHED", "KILLED")  # of a study whose history is written


def mine(experiments: Sequence[str] | None, *, metric: str, mode: str, space: SearchSpace) -> History:
    """Return what `History.from_mlflow` promises."""
    client = connect()
    skipped: Counter[str] = Counter()
    records: list[dict[str, Any]] = []
    for parent in _studies(client, _chosen(client, experiments)):
        tags = parent.data.tags
        if (tags.get("hpo.metric"), tags.get("hpo.mode")) != (metric, mode):
            skipped["studies of another metric"] += 1
        elif parent.info.status not in _STATUSES:
            skipped["studies that run or failed"] += 1
        elif (written := _written(client, parent)) is None:
            skipped["studies without a readable history"] += 1
        else:
            facts, trials = written
            records += _records(trials, _task(tags, facts), facts, space, skipped)
    mined = History.from_records(records, mode=mode)
    history = History(mined.tasks, mode=mode, skipped=skipped + Counter(mined.skipped))
    return history.within(space)


def _chosen(client: MlflowClient, names: Sequence[str] | None) -> list[str]:
    """Return the ids of the experiments."""
    if names is not None:
        return [_named(client, name).experiment_id for name in names]
    ids: list[str] = []
    token: str | None = None
    while True:
        page = ask(
            "MLFLOW_TRACKING_URI: cannot list the experiments",
            client.search_experiments,
            view_type=ViewType.ACTIVE_ONLY,
            max_results=_PAGE,
            page_token=token,
        )
        ids += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return ids


def _named(client: MlflowClient, name: str) -> Experiment:
    experiment = ask("MLFLOW_TRACKING_URI: cannot look up an experiment", client.get_experiment_by_name, name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise ConfigError("warm_start", f"there is no active experiment {name!r:.100}")
    return experiment


def _studies(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    """Yield the parent runs, the latest first."""
    token: str | None = None
    while experiments:
        page = ask(
            "MLFLOW_TRACKING_URI: cannot list the studies",
            client.search_runs,
            experiments,
            "tags.`hpo.kind` = 'study'",
            max_results=_PAGE,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _written(client: MlflowClient, parent: Run) -> tuple[Mapping[str, Any], list[Any]] | None:
    """Return the facts about the data and the trials that a study wrote down; None if they are not whole."""
    try:
        history = json.loads(_text(parent, HISTORY))
        facts = json.loads(_text(parent, "data.json"))
        trials = history["trials"]
        whole = history["schema"] == SCHEMA and len(trials) == int(parent.data.metrics["trials_started"])
    except (StudyError, ValueError, KeyError, TypeError):
        return None
    return (facts, trials) if whole and isinstance(trials, list) and isinstance(facts, Mapping) else None


def _text(parent: Run, path: str) -> str:
    uri = f"runs:/{parent.info.run_id}/{path}"
    return ask(f"artifact store: cannot read {path}", mlflow.artifacts.load_text, uri)


def _records(
    trials: list[Any], task: str, facts: Mapping[str, Any], space: SearchSpace, skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield a record for `History.from_records` of each trial that can be read."""
    features = task_features(facts)
    for trial in trials:
        try:
            params, curve, run_id = dict(trial["params"]), trial["curve"], str(trial["run_id"])
            record = {"task": task, "features": features, "run_id": run_id, "curve": curve}
            config = _config(params, space)
            History.from_records([record | {"config": config}])
        except (ConfigError, KeyError, TypeError, ValueError):
            skipped["trials that cannot be read"] += 1
        else:
            yield record | {"config": config}


def _task(tags: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """Return a name that is the same for studies of the same data, and of no others.

    >>> _task({"hpo.task": "houses.csv"}, {"target": "price", "data.sha256": "0123456789abcdef"})
    'houses.csv:price@01234567'
    """
    target = f":{facts['target']}" if facts.get("target") else ""
    digest = f"@{str(facts['data.sha256'])[:8]}" if facts.get("data.sha256") else ""
    return f"{tags.get('hpo.task') or 'unnamed'}{target}{digest}"


def _config(texts: Mapping[str, str], space: SearchSpace) -> dict[str, Any]:
    """Return params as values where `space` can read them, and else as the text that they are."""
    config: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            config[name] = space[name].parse(text) if name in space else text
        except ConfigError:
            config[name] = text  # `History.within` says why it is left out
    return config
