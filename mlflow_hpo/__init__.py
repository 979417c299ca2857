"""Hyperparameter search on the MLflow that a team already has.

The public names are imported when they are first used: workers and served models need only a few of the
rooms.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_hpo.errors import ConfigError as ConfigError
    from mlflow_hpo.errors import HpoError as HpoError
    from mlflow_hpo.errors import StudyError as StudyError
    from mlflow_hpo.metalearning.history import History as History
    from mlflow_hpo.optimizer import BestTrial as BestTrial
    from mlflow_hpo.optimizer import Job as Job
    from mlflow_hpo.optimizer import Optimizer as Optimizer
    from mlflow_hpo.schedulers.base import Decision as Decision
    from mlflow_hpo.space import SearchSpace as SearchSpace
    from mlflow_hpo.study import Study as Study
    from mlflow_hpo.study import tune as tune
    from mlflow_hpo.trial import Trial as Trial
    from mlflow_hpo.trial import TrialStopped as TrialStopped

_HOMES = {
    "BestTrial": "optimizer",
    "ConfigError": "errors",
    "Decision": "schedulers.base",
    "History": "metalearning.history",
    "HpoError": "errors",
    "Job": "optimizer",
    "Optimizer": "optimizer",
    "SearchSpace": "space",
    "Study": "study",
    "StudyError": "errors",
    "Trial": "trial",
    "TrialStopped": "trial",
    "tune": "study",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
