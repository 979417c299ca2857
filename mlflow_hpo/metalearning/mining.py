"""Mining: the history that studies left in MLflow."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.history import History
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, connect, impatient, reach_artifacts
from mlflow_hpo.tracking.history import HISTORY, SCHEMA, WRITTEN

_PAGE = 1000  # runs a request
_PATIENCE = 3  # studies in a row whose artifacts cannot be read
_DAMAGED = (KeyError, TypeError, ValueError, OverflowError, RecursionError)  # what a damaged record brings


RUNS = "runs:/"  # begins the name of a single study


def mine(sources: Sequence[str] | None, *, metric: str, mode: str, space: SearchSpace) -> History:
    """Return what `History.from_mlflow` promises."""
    client = connect()
    skipped: Counter[str] = Counter()
    records: list[dict[str, Any]] = []
    used: list[str] = []
    unreadable = 0  # studies, one after the other
    for parent, experiment in _studies(client, sources):
        tags = parent.data.tags
        if (tags.get("hpo.metric"), tags.get("hpo.mode")) != (metric, mode):
            skipped["studies of another metric"] += 1
        elif WRITTEN not in tags:
            skipped["studies without a history"] += 1
        else:
            try:
                facts, trials = _written(parent)
            except StudyError:
                unreadable += 1
                if unreadable == _PATIENCE:  # the store is away: the others would take their time, too
                    raise
                skipped["studies whose history cannot be read"] += 1
            except _DAMAGED:
                skipped["studies whose history is damaged"] += 1
            else:
                unreadable = 0
                used.append(parent.info.run_id)
                records += _records(trials, _task(tags, facts, experiment), task_features(facts), space)
    return History.mined(records, mode=mode, skipped=skipped, studies=used).within(space)


def _studies(client: MlflowClient, sources: Sequence[str] | None) -> Iterator[tuple[Run, str]]:
    """Yield the parent runs with the names of their experiments: the single ones, then the latest first."""
    single = [source for source in sources or () if source.startswith(RUNS)]
    for source in single:
        yield _single(client, source)
    if sources is None or len(single) < len(sources):
        names = None if sources is None else [name for name in sources if name not in single]
        experiments = _experiments(client, names)
        for parent in _parents(client, list(experiments)):
            yield parent, experiments[parent.info.experiment_id]


def _single(client: MlflowClient, source: str) -> tuple[Run, str]:
    parent = ask(
        "MLFLOW_TRACKING_URI: cannot read a study", _found, client.get_run, source.removeprefix(RUNS)
    )
    if parent is None or parent.data.tags.get("hpo.kind") != "study":
        raise ConfigError("warm_start", f"there is no study {source!r:.100}")
    experiment = ask(
        "MLFLOW_TRACKING_URI: cannot look up an experiment", client.get_experiment, parent.info.experiment_id
    )
    return parent, experiment.name


def _found(get: Callable[[str], Run], run_id: str) -> Run | None:
    """Return the run, None where there is none."""
    try:
        return get(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _experiments(client: MlflowClient, names: Sequence[str] | None) -> dict[str, str]:
    """Return the names of the experiments by id."""
    if names is not None:
        return {_named(client, name).experiment_id: name for name in names}
    found: dict[str, str] = {}
    token: str | None = None
    while True:
        page = ask(
            "MLFLOW_TRACKING_URI: cannot list the experiments",
            client.search_experiments,
            view_type=ViewType.ACTIVE_ONLY,
            max_results=_PAGE,
            page_token=token,
        )
        found |= {experiment.experiment_id: experiment.name for experiment in page}
        token = page.token
        if not token:
            return found


def _named(client: MlflowClient, name: str) -> Experiment:
    experiment = ask("MLFLOW_TRACKING_URI: cannot look up an experiment", client.get_experiment_by_name, name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise ConfigError("warm_start", f"there is no active experiment {name!r:.100}")
    return experiment


def _parents(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
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


def _written(parent: Run) -> tuple[Mapping[str, Any], list[Any]]:
    """Return the facts about the data and the trials that a study wrote down.

    Raises:
        StudyError: they cannot be read.
        one of `_DAMAGED`: they are not whole.
    """
    location = parent.info.artifact_uri
    reach_artifacts(location)
    repository = get_artifact_repository(location, tracking_uri=mlflow.get_tracking_uri())
    texts = {}
    with tempfile.TemporaryDirectory() as folder, impatient():
        for path in (HISTORY, "data.json"):
            problem = f"artifact store: cannot read {path} of run {parent.info.run_id}"
            file = ask(problem, repository.download_artifacts, path, folder)
            texts[path] = Path(file).read_text(encoding="utf-8")
    history, facts = json.loads(texts[HISTORY]), json.loads(texts["data.json"])
    trials = history["trials"]
    whole = history["schema"] == SCHEMA and len(trials) == int(parent.data.tags[WRITTEN])
    if not (whole and isinstance(trials, list) and isinstance(facts, Mapping)):
        raise ValueError("not what was written")
    return facts, trials


def _records(
    trials: list[Any], task: str, features: Mapping[str, float], space: SearchSpace
) -> Iterator[dict[str, Any]]:
    """Yield a record for `History.mined` of each trial; what cannot be read makes one that is malformed."""
    for trial in trials:
        try:
            yield {
                "task": task,
                "features": features,
                "run_id": str(trial["run_id"]),
                "config": _config(dict(trial["params"]), space),
                "curve": trial["curve"],
                "failed": trial["failed"],
            }
        except _DAMAGED:
            yield {}


def _task(tags: Mapping[str, str], facts: Mapping[str, Any], experiment: str) -> str:
    """Return a name that is the same for studies of the same data, and of no others.

    Where the training does not tell the digest of its data, its name is taken to mean the same within an
    experiment only.

    >>> _task({"hpo.task": "houses.csv"}, {"target": "price", "data.sha256": "0123456789abcdef"}, "Default")
    'houses.csv:price@01234567'
    >>> _task({"hpo.task": "train"}, {}, "flats")
    'train in flats'
    """
    name = tags.get("hpo.task") or "unnamed"
    target = f":{facts['target']}" if facts.get("target") else ""
    if facts.get("data.sha256"):
        return f"{name}{target}@{str(facts['data.sha256'])[:8]}"
    return f"{name}{target} in {experiment}"


def _config(texts: Mapping[str, str], space: SearchSpace) -> dict[str, Any]:
    """Return params as values where `space` can read them, and else as the text that they are."""
    config: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            config[name] = space[name].parse(text) if name in space else text
        except ConfigError:
            config[name] = text  # `History.within` says why it is left out
    return config
