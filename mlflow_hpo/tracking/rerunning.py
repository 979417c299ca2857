"""What MLflow holds of one trial, so that it can be trained again and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, connect
from mlflow_hpo.tracking.logged import logged_value
from mlflow_hpo.tracking.recovery import read_settings, remembered
from mlflow_hpo.tracking.runs import check_study, found_run
from mlflow_hpo.tracking.summary import OURS


@dataclass(frozen=True, slots=True)
class PastTrial:
    """One trial as its run tells it.

    Attributes:
        trial_id, run_id: which one.
        params: its configuration.
        seed: its seed.
        keys: the search.yaml of its study.
        facts: about its data; "data" holds the task's name.
        metric: that was optimised.
        threads: of the CPU that it had; None if that is not known.
        curves: metric -> epoch -> what it reported.
    """

    trial_id: int
    run_id: str
    params: dict[str, Any]
    seed: int
    keys: dict[str, Any]
    facts: dict[str, str]
    metric: str
    threads: int | None
    curves: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """The last epoch that it reported."""
        return max((epoch for curve in self.curves.values() for epoch in curve), default=0)


def read_trial(run_id: str) -> PastTrial:
    """Return a trial of a study.

    Raises:
        ConfigError: `run_id` is no run of a trial.
        StudyError: the stores are unreachable, or it cannot be known what it was trained with.
    """
    client = connect()
    run = found_run(client, run_id, "trial_run_id")
    tags = run.data.tags
    if tags.get("hpo.kind") != "trial":
        raise ConfigError("trial_run_id", f"{run_id} is no trial of a study (tag hpo.kind)")
    parent = found_run(client, tags["mlflow.parentRunId"], "trial_run_id")
    check_study(parent, "trial_run_id")
    trial_id = int(tags["hpo.trial"])
    if trial_id in remembered(parent.data.tags):
        raise StudyError(
            f"trial {trial_id} is of a search before its study was resumed as another one: what it was "
            "trained with is not known for certain"
        )
    keys = read_settings(parent)
    space = SearchSpace(keys["space"])
    texts = {name: text for name, text in run.data.params.items() if name in space.names}
    facts = json.loads(_text(parent, "data.json"))
    machine = json.loads(_text(parent, "environment/machine.json"))
    curves = {name: _curve(client, run, name) for name in run.data.metrics if not name.startswith(OURS)}
    return PastTrial(
        trial_id=trial_id,
        run_id=run_id,
        params=space.parse(texts),
        seed=int(tags["hpo.seed"]),
        keys=keys,
        facts=facts,
        metric=keys["metric"]["name"],
        threads=machine.get("threads_per_trial"),
        curves=curves,
    )


def _curve(client: MlflowClient, run: Run, name: str) -> dict[int, float]:
    problem = "MLFLOW_TRACKING_URI: cannot read the metrics of the trial"
    points = ask(problem, client.get_metric_history, run.info.run_id, name)
    return {point.step: logged_value(point.value) for point in points}


def _text(parent: Run, path: str) -> str:
    uri = f"runs:/{parent.info.run_id}/{path}"
    return str(ask(f"artifact store: cannot read {path}", mlflow.artifacts.load_text, uri))
