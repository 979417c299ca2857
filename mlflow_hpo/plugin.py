"""The project backend ``hpo``: `mlflow run URI --backend hpo --backend-config search.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.projects.utils import (
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
)
from mlflow.tracking import MlflowClient

from mlflow_hpo.config import StudyConfig
from mlflow_hpo.errors import ConfigError, HpoError
from mlflow_hpo.patience import quiet_retries
from mlflow_hpo.recording import Recording
from mlflow_hpo.reports.words import plain
from mlflow_hpo.scratch import scratch_folder

OF_MLFLOW = (  # what MLflow puts beside the user's keys
    *(PROJECT_ENV_MANAGER, PROJECT_STORAGE_DIR, PROJECT_SYNCHRONOUS),
    *(PROJECT_DOCKER_ARGS, PROJECT_DOCKER_AUTH, PROJECT_BUILD_IMAGE),
)
DEFAULT_EXPERIMENT = "0"


class SearchedRun(SubmittedRun):
    """The parent run of a study that is over: MLflow has nothing to wait for."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    @property
    def run_id(self) -> str:
        """Id of the parent run."""
        return self._run_id

    def wait(self) -> bool:
        """Return that it succeeded; one that did not is raised by the backend."""
        return True

    def get_status(self) -> str:
        """Return MLflow's word for that."""
        return "FINISHED"

    def cancel(self) -> None:
        """Nothing is left to be cancelled."""


class HpoBackend(AbstractBackend):
    """Searches a project instead of running it once.

    The backend's configuration holds the keys of search.yaml, ``project`` for how the project is searched,
    and ``resume`` with the parent run of a study that goes on (``take_over``: also where another driver may
    be at work on it). `run` returns when the study is over: MLflow would neither wait for it nor tell of its
    failure.
    """

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str] | None,
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> SearchedRun:
        """Search a project and return its parent run.

        Raises:
            ExecutionException: something in the input is wrong, or the study failed.
            KeyboardInterrupt: SIGINT or SIGTERM came; what ran is stopped and its runs are paused.
        """
        del tracking_uri  # the one that MLflow's settings name
        quiet_retries()
        try:
            with scratch_folder() as scratch:
                return SearchedRun(
                    _search(
                        *(project_uri, entry_point, params or {}, version, backend_config, experiment_id),
                        scratch=scratch,
                    )
                )
        except ExecutionException:
            raise
        except (HpoError, MlflowException) as error:
            raise ExecutionException(plain(str(error))) from error


def _search(
    uri: str,
    entry_point: str,
    params: Mapping[str, str],
    version: str | None,
    backend_config: Mapping[str, Any],
    experiment_id: str,
    *,
    scratch: Path,
) -> str:
    """Search a project; return the id of the parent run."""
    from rich.console import Console

    from mlflow_hpo.projects.environment import environment_of
    from mlflow_hpo.projects.fetching import fetched
    from mlflow_hpo.projects.project import SearchedProject
    from mlflow_hpo.reports.live import LiveView, PlainView
    from mlflow_hpo.study import Study
    from mlflow_hpo.tracking.recovery import read_recording

    keys, resume, take_over = _keys(backend_config)
    recording = read_recording(resume) if resume else None
    if recording is not None:
        keys = {**recording.keys, **keys}
    keys = _complete(keys, experiment_id, recording)
    config = StudyConfig.parse(keys)
    console = Console()
    view = LiveView(console) if console.is_terminal else PlainView(console)
    with fetched(uri, version, entry_point) as project:
        environment = environment_of(project, backend_config, scratch)
        training = SearchedProject(project, config, params, environment=environment, scratch=scratch)
        study = Study(
            training,
            listener=view,
            resume=recording,
            take_over=take_over,
            source=project.tags(),
            **keys,
        )
        study.run()
    return study.run_id


def _keys(backend_config: Mapping[str, Any]) -> tuple[dict[str, Any], str, bool]:
    """Return the keys of the study, the run that it resumes, and whether to take it over."""
    if not isinstance(backend_config, Mapping):
        raise ConfigError("backend-config", f"must hold keys, got {type(backend_config).__name__}")
    keys = {name: value for name, value in backend_config.items() if name not in OF_MLFLOW}
    resume, take_over = keys.pop("resume", ""), keys.pop("take_over", False)
    if not isinstance(resume, str):
        raise ConfigError("resume", f"must be the id of a study's parent run, got {resume!r:.80}")
    if not isinstance(take_over, bool):
        raise ConfigError("take_over", f"must be true or false, got {take_over!r:.80}")
    if not keys and not resume:
        raise ConfigError("backend-config", "must hold the keys of the search: a .json file, or JSON")
    if keys.setdefault("launcher", "project") != "project":
        raise ConfigError("launcher", f"must be project for --backend hpo, got {keys['launcher']!r:.80}")
    return keys, resume, take_over


def _complete(keys: dict[str, Any], experiment_id: str, recording: Recording | None) -> dict[str, Any]:
    """Return the keys with what goes without saying for a project."""
    project = keys.get("project")
    can_pause = isinstance(project, Mapping) and project.get("checkpoint_parameter") is not None
    if keys.get("scheduler", "auto") == "auto" and not can_pause:
        keys["scheduler"] = "asha_stopping"  # others would train from scratch at each rung
        if keys.get("searcher", "auto") == "auto":
            keys["searcher"] = "tpe"
    if recording is None and ("experiment" not in keys or experiment_id != DEFAULT_EXPERIMENT):
        keys["experiment"] = MlflowClient().get_experiment(experiment_id).name
    return keys
