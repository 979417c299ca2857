"""Who gets how much resource."""

from __future__ import annotations

from mlflow_hpo.registry import Registry
from mlflow_hpo.schedulers.asha import AshaScheduler
from mlflow_hpo.schedulers.asha_stopping import AshaStoppingScheduler
from mlflow_hpo.schedulers.base import Assignment, Decision, Scheduler
from mlflow_hpo.schedulers.freeze_thaw import FreezeThawScheduler
from mlflow_hpo.schedulers.full import FullScheduler
from mlflow_hpo.schedulers.hyperband import HyperbandScheduler
from mlflow_hpo.schedulers.median import MedianScheduler
from mlflow_hpo.schedulers.successive_halving import SuccessiveHalvingScheduler

SCHEDULERS: Registry[Scheduler] = Registry(
    "scheduler",
    Scheduler,  # type: ignore[type-abstract]
    "mlflow_hpo.schedulers",
    {
        "full": FullScheduler,
        "successive_halving": SuccessiveHalvingScheduler,
        "hyperband": HyperbandScheduler,
        "asha": AshaScheduler,
        "asha_stopping": AshaStoppingScheduler,
        "median": MedianScheduler,
        "freeze_thaw": FreezeThawScheduler,
    },
)

__all__ = ["SCHEDULERS", "Assignment", "Decision", "Scheduler"]
