"""Where trials run."""

from mlflow_hpo.launchers.base import Launcher
from mlflow_hpo.launchers.local import LocalLauncher
from mlflow_hpo.launchers.packed import PackedLauncher
from mlflow_hpo.launchers.project import ProjectLauncher
from mlflow_hpo.launchers.ray import RayLauncher
from mlflow_hpo.registry import Registry

LAUNCHERS: Registry[Launcher] = Registry(
    "launcher",
    Launcher,  # type: ignore[type-abstract]
    "mlflow_hpo.launchers",
    {"local": LocalLauncher, "packed": PackedLauncher, "project": ProjectLauncher, "ray": RayLauncher},
)
