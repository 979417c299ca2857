"""What a study is made of before it runs: checked training code, an optimizer, a history, a parent run."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_hpo.auto import Choice
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.launchers.base import Trainable
from mlflow_hpo.launchers.project_contract import Project
from mlflow_hpo.metalearning.begun import Begun, begun
from mlflow_hpo.metalearning.warm_start import WarmStart
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.tracking.environment import environment
from mlflow_hpo.tracking.inputs import data_input
from mlflow_hpo.tracking.tracker import as_param
from mlflow_hpo.trial import Described, DescribedTraining
from mlflow_hpo.yaml_text import as_yaml


def describe(train: Trainable | Described, config: StudyConfig) -> dict[str, str]:
    """Check a study against training code that describes itself; return what it says of its data."""
    if not isinstance(train, Described):
        while isinstance(train, functools.partial):
            train = train.func
        name = getattr(train, "__name__", type(train).__name__)
        return {"data": f"{getattr(train, '__module__', '')}.{name}".removeprefix("__main__.")}
    train.check_params(config.space)
    train.prepare()
    if not isinstance(train, DescribedTraining):
        return dict(train.describe())
    if config.metric.name not in train.metrics:
        raise ConfigError(
            "metric.name",
            f"must be one that the training logs ({', '.join(sorted(train.metrics))}), "
            f"got {config.metric.name!r}",
        )
    for index, constraint in enumerate(config.constraints):
        if constraint.metric not in train.metrics:
            raise ConfigError(
                f"constraints[{index}]",
                f"must be on a metric that the training logs ({', '.join(sorted(train.metrics))}), "
                f"got {str(constraint)!r}",
            )
    return dict(train.describe())


def code_of(train: Trainable | Project) -> Path | None:
    """Return the file or folder that training code is in; None if that is not known."""
    folder = getattr(train, "folder", None)
    if isinstance(folder, Path):
        return folder
    while isinstance(train, functools.partial):
        train = train.func
    with contextlib.suppress(TypeError, OSError):
        code = train if inspect.isroutine(train) else type(train)
        return Path(found) if (found := inspect.getsourcefile(code)) else None
    return None


def make_optimizer(config: StudyConfig, warm_start: WarmStart | None = None) -> Optimizer:
    """Return the optimizer of a study, with what earlier ones taught if it begins with that."""
    return Optimizer(
        config.space,
        mode=config.metric.mode,
        searcher=config.searcher,
        scheduler=config.scheduler,
        min_resource=config.min_resource,
        max_resource=config.max_resource,
        trials=config.trials,
        seed=config.seed,
        points=list(config.points),
        early_stopping=config.early_stopping,
        goal=config.goal,
        history=None if warm_start is None else warm_start.history,
        task=None if warm_start is None else {"features": warm_start.features},
    )


def mined_warm_start(config: StudyConfig, facts: Mapping[str, str], own: str = "") -> WarmStart | None:
    """Ask MLflow for the history, where the user wants that; `own` is the study's run id if it has one."""
    if not config.warm_start:
        return None
    return WarmStart.mined(config.warm_start, **_asking(config, facts), own=own)


def begun_warm_start(config: StudyConfig, facts: Mapping[str, str], run_id: str) -> Begun:
    """Ask MLflow for the history that the study with the parent run `run_id` began with."""
    return begun(run_id, config.warm_start, **_asking(config, facts))


def _asking(config: StudyConfig, facts: Mapping[str, str]) -> dict[str, Any]:
    """Return what a study says of itself where it asks for a history."""
    return {
        "metric": config.metric.name,
        "mode": config.metric.mode,
        "space": config.space,
        "max_resource": config.max_resource,
        "facts": facts,
        "rules": config.warm_start_rules,
    }


def parent_run(
    train: Trainable | Project,
    config: StudyConfig,
    facts: Mapping[str, str],
    choice: Choice | None,
    warm_start: WarmStart | None,
    threads: int | None,
) -> dict[str, Any]:
    """Return what the parent run says of a study, as the arguments of `Tracker`."""
    limits = config.budget.model_dump(exclude_none=True)
    rules = {
        "early_stopping": config.early_stopping,
        "goal": config.goal,
        "constraints": [str(constraint) for constraint in config.constraints] or None,
        "auto": None if choice is None else str(choice),
        "warm_start": None if warm_start is None else str(warm_start),
    }
    settings = {
        "searcher": config.searcher,
        "scheduler": config.scheduler,
        "min_resource": config.min_resource,
        "max_resource": config.max_resource,
        "trials": config.trials,
        "workers": config.workers,
        "seed": config.seed,
        **{name: rule for name, rule in rules.items() if rule is not None},
        **{f"budget.{name}": limit for name, limit in limits.items()},
    }
    return {
        "experiment": config.experiment,
        "name": config.name,
        "tags": {
            "hpo.task": facts["data"],
            "hpo.metric": config.metric.name,
            "hpo.mode": config.metric.mode,
        },
        "params": {f"hpo.{name}": as_param(value) for name, value in settings.items()},
        "artifacts": {
            "search.yaml": as_yaml(config.to_dict()),
            "space.json": json.dumps(config.space.to_dict(), indent=2),
            "data.json": json.dumps(dict(facts), indent=2),
            **environment(code_of(train), threads),
            **({} if warm_start is None else warm_start.artifacts()),
        },
        "data": data_input(facts),
    }
