"""Who proposes configurations."""

from __future__ import annotations

from mlflow_hpo.registry import Registry
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.searchers.freeze_thaw import FreezeThawSearcher
from mlflow_hpo.searchers.gp import GpSearcher
from mlflow_hpo.searchers.grid import GridSearcher
from mlflow_hpo.searchers.optuna import OptunaSearcher
from mlflow_hpo.searchers.random import RandomSearcher
from mlflow_hpo.searchers.sobol import SobolSearcher
from mlflow_hpo.searchers.tpe import TpeSearcher

SEARCHERS: Registry[Searcher] = Registry(
    "searcher",
    Searcher,  # type: ignore[type-abstract]
    "mlflow_hpo.searchers",
    {
        "random": RandomSearcher,
        "sobol": SobolSearcher,
        "grid": GridSearcher,
        "tpe": TpeSearcher,
        "gp": GpSearcher,
        "optuna": OptunaSearcher,
        "freeze_thaw": FreezeThawSearcher,
    },
)

__all__ = ["SEARCHERS", "Searcher"]
