"""Where trials run."""

from mlflow_hpo.launchers.base import Launcher
from mlflow_hpo.launchers.local import LocalLauncher
from mlflow_hpo.registry import Registry

LAUNCHERS: Registry[Launcher] = Registry(  # type: ignore[type-abstract]
    "launcher", Launcher, "mlflow_hpo.launchers", {"local": LocalLauncher}
)
