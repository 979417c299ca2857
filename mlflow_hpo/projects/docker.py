"""A project's docker_env: each of its commands runs in a container of its own."""

from __future__ import annotations

import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_TRACKING_URI
from mlflow.projects import _project_spec
from mlflow.projects.utils import PROJECT_BUILD_IMAGE, PROJECT_DOCKER_ARGS, PROJECT_DOCKER_AUTH

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.projects.container_stores import stores_for_containers
from mlflow_hpo.projects.images import Image, image_of

# what is handed on to a container: where it logs, and its share of the machine's cores
HANDED_ON = re.compile(r"MLFLOW_|PYTHONUNBUFFERED$|MKL_CBWR$|\w+_NUM_THREADS$")
OURS = ("name", "detach", "d")  # arguments of `docker run` that are not the user's to give
GPUS = "CUDA_VISIBLE_DEVICES"


class DockerEnvironment:
    """Containers of the image that MLproject names, or of one that is built from that and the project.

    Args:
        spec: the project.
        folder: where it lies.
        options: of `mlflow run`, as a backend gets them.
        scratch: a folder of this search that nobody else can read.

    Raises:
        ConfigError: an option is not for a search.
    """

    def __init__(
        self, spec: _project_spec.Project, folder: Path, options: Mapping[str, Any], scratch: Path
    ) -> None:
        if options.get(PROJECT_DOCKER_AUTH):
            raise ConfigError("docker_auth", "is not taken by a search: `docker login` before it instead")
        self._arguments: Mapping[str, Any] = options.get(PROJECT_DOCKER_ARGS) or {}
        for name in OURS:
            if name in self._arguments:
                raise ConfigError(
                    "docker-args", f"{name!r} must not be given: the search runs the containers"
                )
        self._spec = spec
        self._folder = folder
        self._build = bool(options.get(PROJECT_BUILD_IMAGE))
        self._file = scratch / "docker-environment"
        self._copied: list[str] = []
        self._set: dict[str, str] = {}
        self._image: Image | None = None
        self._stores: tuple[list[str], dict[str, str]] | None = None

    def prepare(self) -> None:
        """Have the image on this machine.

        Raises:
            ConfigError: there is no engine, it cannot get the image, or a variable that MLproject wants to be
                copied is not set.
        """
        self._copied, self._set = _variables(self._spec.docker_env.get("environment") or [])
        # its values may be secret, and a command line can be read by anybody
        self._file.write_text("".join(f"{name}={value}\n" for name, value in self._set.items()))
        self._image = image_of(self._spec, self._folder, build=self._build)

    def line(self, command: str, env: Mapping[str, str], folders: Sequence[Path]) -> CommandLine:
        """Return the command line that runs a command in a new container, where the folders are the same.

        As with any `mlflow run`, the shell that reads the command is one of this machine.
        """
        if self._image is None:
            raise RuntimeError("the image is not prepared")
        if self._stores is None:
            self._stores = stores_for_containers(
                env[MLFLOW_TRACKING_URI.name], env[MLFLOW_EXPERIMENT_ID.name]
            )
        volumes, variables = self._stores
        name = f"mlflow-hpo-{uuid.uuid4().hex}"
        # --init: the first process of a container ignores SIGTERM, so it must not be the script
        run = ["docker", "run", "--rm", "--init", *_options(self._arguments), "--name", name]
        for volume in self._mounted([*volumes, *(f"{folder}:{folder}" for folder in folders)]):
            run += ["--volume", volume]
        if "gpus" not in self._arguments and (devices := _devices(env)):
            run += ["--gpus", f'"device={devices}"']  # docker reads it as CSV
        handed_on = {*filter(HANDED_ON.match, env), *variables, *self._copied} - self._set.keys()
        for variable in sorted(handed_on):
            run += ["--env", variable]  # without its value: docker takes it from its own environment
        run += ["--env-file", str(self._file), self._image.id]
        return CommandLine(
            ["bash", "-c", f"{shlex.join(run)} {command}"],
            {**env, **variables},
            # a client that is killed leaves its container behind
            ending=("docker", "rm", "--force", "--volumes", name),
        )

    def describe(self) -> dict[str, str]:
        """Return which image it is."""
        return {} if self._image is None else {"image": self._image.name, "image.id": self._image.id}

    def _mounted(self, ours: Sequence[str]) -> list[str]:
        """Return the volumes of a container; the engine refuses two at one place, and the user's stands."""
        users = self._spec.docker_env.get("volumes") or []
        taken = {_target(volume) for volume in users}
        return [*users, *(volume for volume in dict.fromkeys(ours) if _target(volume) not in taken)]


def _target(volume: str) -> str:
    source, _, target = volume.partition(":")
    return (target or source).partition(":")[0].rstrip("/")


def _options(arguments: Mapping[str, Any]) -> list[str]:
    """Return options of `docker run`, made as MLflow does: of a value, or True for a flag."""
    options = []
    for name, value in arguments.items():
        options.append(f"-{name}" if len(name) == 1 else f"--{name}")
        if value is not True:
            options.append(str(value))
    return options


def _devices(env: Mapping[str, str]) -> str:
    """Return the GPUs that a script would see."""
    ids = (each.strip() for each in env.get(GPUS, "").split(","))
    return ",".join(each for each in ids if each not in ("", "-1"))


def _variables(entries: Sequence[str | Sequence[object]]) -> tuple[list[str], dict[str, str]]:
    """Return which variables MLproject wants copied, and which set."""
    copied, given = [], {}
    for entry in entries:
        if isinstance(entry, str):
            if entry not in os.environ:
                raise ConfigError(
                    "docker_env.environment", f"names {entry}, which is not set here; export it"
                )
            copied.append(entry)
        elif len(entry) == 2 and "\n" not in str(entry[1]):
            given[str(entry[0])] = str(entry[1])
        else:
            raise ConfigError(
                "docker_env.environment",
                f"must hold names, or pairs of a name and a value in one line, got {entry!r:.80}",
            )
    return copied, given
