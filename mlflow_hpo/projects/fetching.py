"""Fetching a project: a folder as it is, anything else into a folder of ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.projects import _project_spec
from mlflow.projects.utils import (
    _fetch_git_repo,
    _fetch_project,
    _is_local_uri,
    _is_zip_uri,
    _parse_file_uri,
    _parse_subdirectory,
)
from mlflow.utils.git_utils import get_git_commit, get_git_repo_url
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_REPO_URL,
    MLFLOW_PROJECT_ENTRY_POINT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.tracking.connect import public_uri, without_passwords


@dataclass(frozen=True, slots=True)
class FetchedProject:
    """A project on this machine.

    Attributes:
        uri: where it is from, without passwords.
        folder: where it lies.
        spec: its MLproject, as MLflow reads it.
        entry_point: what is run, as MLflow reads it.
    """

    uri: str
    folder: Path
    spec: _project_spec.Project
    entry_point: _project_spec.EntryPoint

    @property
    def name(self) -> str:
        """What MLproject calls it, or the last part of its URI."""
        name = self.spec.name or self.uri.rstrip("/").rpartition("/")[2].removesuffix(".git")
        return str(name)

    def tags(self) -> dict[str, str]:
        """Return MLflow's tags for runs of this project."""
        source = {
            MLFLOW_SOURCE_NAME: self.uri,
            MLFLOW_SOURCE_TYPE: "PROJECT",
            MLFLOW_PROJECT_ENTRY_POINT: self.entry_point.name,
            MLFLOW_GIT_COMMIT: get_git_commit(str(self.folder)),
            MLFLOW_GIT_REPO_URL: get_git_repo_url(str(self.folder)),
        }
        return {name: without_passwords(value) for name, value in source.items() if value}


@contextlib.contextmanager
def fetched(uri: str, version: str | None, entry_point: str) -> Iterator[FetchedProject]:
    """Fetch a project as `mlflow run` does; what was copied or cloned is removed at the end.

    Args:
        uri: a folder, a git repository, or a ZIP file; ``#path`` behind it names a folder in it.
        version: of a git repository: a commit, branch or tag.
        entry_point: what is to be run.

    Raises:
        ConfigError: there is no such project or entry point, or it cannot be searched.
    """
    shown = _absolute(public_uri(uri))
    bare = _bare_repository(uri)
    copied = bare is not None or _is_copied(uri)
    try:
        folder = Path(_fetch_project(uri, version)) if bare is None else _cloned(bare, version)
    except Exception as error:
        line = without_passwords(" ".join(str(error).split()))
        raise ConfigError("uri", f"cannot fetch {shown}: {line:.400}") from error
    try:
        yield _read(shown, folder, entry_point)
    finally:
        if copied:
            _remove(folder)


def _is_copied(uri: str) -> bool:
    root, _ = _parse_subdirectory(uri)
    return bool(_is_zip_uri(root)) or not _is_local_uri(root)


def _remove(folder: Path) -> None:
    """Remove what was copied, of which `folder` may be a part; never anything else."""
    copies = Path(os.path.abspath(tempfile.gettempdir()))
    if copies in folder.parents:
        shutil.rmtree(copies / folder.relative_to(copies).parts[0], ignore_errors=True)


def _absolute(uri: str) -> str:
    """Return the URI of a folder wherever it is looked at from, as MLflow records it; any other as it is."""
    root, subfolder = _parse_subdirectory(uri)
    if not os.path.exists(root):
        return uri
    return f"{os.path.abspath(root)}{'#' if subfolder else ''}{subfolder}"


def _bare_repository(uri: str) -> Path | None:
    """Return the bare git repository on this machine that `uri` names; MLflow would take it for a folder."""
    path = Path(_parse_file_uri(uri))
    is_bare = (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()
    return path.resolve() if is_bare else None


def _cloned(repository: Path, version: str | None) -> Path:
    folder = tempfile.mkdtemp(prefix="mlflow-hpo-clone-")
    try:
        _fetch_git_repo(f"file://{repository}", version, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Path(folder)


def _read(uri: str, folder: Path, entry_point: str) -> FetchedProject:
    try:
        spec = _project_spec.load_project(str(folder))
        found = spec.get_entry_point(entry_point)
    except MlflowException as error:
        raise ConfigError("entry point", f"of {uri}: {' '.join(str(error).split()):.400}") from None
    if found is None:
        raise ConfigError("uri", f"{uri} has a databricks_spark_job, which only Databricks runs")
    if not found.command:
        raise ConfigError("entry point", f"{entry_point!r} of {uri} has no command")
    return FetchedProject(uri, folder, spec, found)
