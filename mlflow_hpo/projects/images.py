"""The image that the containers of a project are made of: here, pulled or built, once for all trials."""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlflow.exceptions import MlflowException
from mlflow.projects import _project_spec
from mlflow.projects import docker as mlflow_docker
from mlflow.projects.utils import MLFLOW_DOCKER_WORKDIR_PATH

from mlflow_hpo.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the Docker engine here.

    Attributes:
        name: what it is called at present.
        id: what it is called for ever.
    """

    name: str
    id: str


def image_of(spec: _project_spec.Project, folder: Path, *, build: bool) -> Image:
    """Return the image of a project once the engine has it.

    Args:
        spec: the project.
        folder: where it lies.
        build: whether to build one, of its base image and this folder; else the base image holds all.

    Raises:
        ConfigError: there is no engine, or it cannot get the image.
    """
    try:
        mlflow_docker.validate_docker_env(spec)
    except MlflowException as error:
        raise ConfigError("docker_env", str(error)) from error
    try:
        mlflow_docker.validate_docker_installation()
    except MlflowException as error:
        raise ConfigError("docker_env", f"needs a Docker engine that answers: {_end(str(error))}") from error
    base = spec.docker_env["image"]
    name = _built(spec, folder, base) if build else _pulled(base)
    return Image(name, _id(name))


def _id(name: str) -> str:
    return _docker("image", "inspect", "--format", "{{.Id}}", name)


def _pulled(name: str) -> str:
    try:
        _id(name)
    except ConfigError:
        logger.info("pulling %s", name)
        try:
            _docker("pull", "--quiet", name)
        except ConfigError as error:
            raise ConfigError(
                "docker_env.image",
                f"{name!r} is not on this machine and cannot be pulled (a private registry wants `docker "
                f"login` first): {error.problem}",
            ) from error
    return name


def _built(spec: _project_spec.Project, folder: Path, base: str) -> str:
    """Build what MLflow would: its own function tags a run with the result, and there is none yet."""
    name = str(mlflow_docker._get_docker_image_uri(spec.name, str(folder)))
    archive = mlflow_docker._PROJECT_TAR_ARCHIVE_NAME
    steps = (
        f"FROM {base}",
        f"COPY {archive}/ {MLFLOW_DOCKER_WORKDIR_PATH}",
        f"WORKDIR {MLFLOW_DOCKER_WORKDIR_PATH}",
    )
    try:
        context = mlflow_docker._create_docker_build_ctx(str(folder), "\n".join((*steps, "")))
    except OSError as error:  # shutil's are, too
        raise ConfigError("docker_env", f"cannot pack {folder} for docker build: {error!s:.300}") from error
    logger.info("building %s", name)
    try:
        with open(context, "rb") as packed:
            dockerfile = f"{archive}/{mlflow_docker._GENERATED_DOCKERFILE_NAME}"
            _docker("build", "--quiet", "--tag", name, "--file", dockerfile, "-", stdin=packed)
    except ConfigError as error:
        raise ConfigError(
            "docker_env", f"cannot build the image {name!r} from {base!r}: {error.problem}"
        ) from error
    finally:
        os.remove(context)
    return name


def _docker(*arguments: str, stdin: IO[bytes] | None = None) -> str:
    """Return what the docker client prints; raise ConfigError with the end of what it complains of."""
    done = subprocess.run(
        ["docker", *arguments],
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError("docker_env", f"docker {arguments[0]} says: {_end(done.stderr)}")
    return done.stdout.strip()


def _end(text: str) -> str:
    """Return the end of an output as one line: there the engine says what is wrong."""
    return " ".join(text.split())[-400:]
