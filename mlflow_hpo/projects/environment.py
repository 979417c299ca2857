"""The environment of a project: made once, before the first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mlflow.projects import _project_spec, env_type
from mlflow.projects.utils import PROJECT_ENV_MANAGER

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.projects.docker import DockerEnvironment
from mlflow_hpo.projects.fetching import FetchedProject

MANAGERS = ("local", "virtualenv", "uv", "conda")


class Environment(Protocol):
    """Where the commands of a project run."""

    def prepare(self) -> None:
        """Make it, if it is not there yet. Raises ConfigError where that is not possible."""

    def line(self, command: str, env: Mapping[str, str], folders: Sequence[Path]) -> CommandLine:
        """Return the command line that runs a command in it.

        Args:
            command: as a shell takes it.
            env: what the command is to find in its environment, and all that is in the driver's.
            folders: of this machine, that the command reads and writes.
        """

    def describe(self) -> Mapping[str, str]:
        """Return facts about it for the records of a study, once it is prepared."""


def environment_of(project: FetchedProject, options: Mapping[str, Any], scratch: Path) -> Environment:
    """Return the environment that a project asks for.

    Args:
        project: the project.
        options: of `mlflow run`, as a backend gets them.
        scratch: a folder of this search that nobody else can read.

    Raises:
        ConfigError: such an environment does not take these options.
    """
    if project.spec.docker_env:
        return DockerEnvironment(project.spec, project.folder, options, scratch)
    return ActivatedEnvironment(project.spec, project.folder, options.get(PROJECT_ENV_MANAGER))


class ActivatedEnvironment:
    """An environment of this machine, that a shell enters.

    Args:
        spec: the project.
        folder: where it lies.
        manager: one of `MANAGERS`; None for what MLflow takes for such a project.
    """

    def __init__(self, spec: _project_spec.Project, folder: Path, manager: str | None) -> None:
        self._spec = spec
        self._folder = folder
        self._manager = manager
        self._activation: list[str] = []

    def prepare(self) -> None:
        """Have MLflow make it; raises what `activation` does."""
        self._activation = activation(self._spec, self._folder, self._manager)

    def line(self, command: str, env: Mapping[str, str], folders: Sequence[Path]) -> CommandLine:
        """Return the command line of a shell that enters it and runs a command."""
        del folders  # all of this machine are there
        return CommandLine(["bash", "-c", " && ".join([*self._activation, command])], env)

    def describe(self) -> dict[str, str]:
        """Return nothing: what is installed here is recorded anyway."""
        return {}


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
