"""The environment of a project: made once, by MLflow, before the first trial."""

from __future__ import annotations

from pathlib import Path

from mlflow.projects import _project_spec, env_type

from mlflow_hpo.errors import ConfigError

MANAGERS = ("local", "virtualenv", "uv", "conda")


def activation(spec: _project_spec.Project, folder: Path, manager: str | None) -> list[str]:
    """Make the environment of a project, if there is none yet; return the shell commands that enter it.

    Args:
        spec: the project.
        folder: where it lies.
        manager: one of `MANAGERS`; None for what MLflow takes for such a project.

    Raises:
        ConfigError: it cannot be made.
    """
    if manager is None:
        manager = "conda" if spec.env_type == env_type.CONDA else "virtualenv"
    if manager not in MANAGERS:
        raise ConfigError("env-manager", f"must be one of {', '.join(MANAGERS)}, got {manager!r}")
    if spec.env_type == env_type.PYTHON and manager == "conda":
        raise ConfigError("env-manager", "must be local, virtualenv or uv for a project with a python_env")
    try:
        if manager == "conda":
            return _conda(spec)
        return [] if manager == "local" else [_virtual(spec, folder, manager)]
    except Exception as error:  # of several kinds, with no base of their own
        line = " ".join(str(error).split())
        raise ConfigError(
            "env-manager",
            f"{manager} cannot make the project's environment: {line:.400} (local takes the present one)",
        ) from error


def _conda(spec: _project_spec.Project) -> list[str]:
    from mlflow.utils.conda import get_or_create_conda_env

    commands: list[str] = get_or_create_conda_env(spec.env_config_path).get_activate_command()
    return commands


def _virtual(spec: _project_spec.Project, folder: Path, manager: str) -> str:
    """Do what MLflow's local backend does; it has no public function for that."""
    from mlflow.utils import virtualenv
    from mlflow.utils.environment import _PythonEnv

    if spec.env_type == env_type.CONDA:
        wanted = _PythonEnv.from_conda_yaml(spec.env_config_path)
    elif spec.env_config_path:
        wanted = _PythonEnv.from_yaml(spec.env_config_path)
    else:
        wanted = _PythonEnv()
    name = virtualenv._get_virtualenv_name(wanted, folder)
    command: str = virtualenv._create_virtualenv(
        local_model_path=folder,
        python_env=wanted,
        env_dir=Path(virtualenv._get_mlflow_virtualenv_root()) / name,
        env_manager="uv" if manager == "uv" else "virtualenv",
    )
    return command
