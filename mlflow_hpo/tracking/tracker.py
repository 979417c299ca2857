"""Tracker: a study's runs in MLflow, as its driver writes them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking.context import registry as run_context
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from mlflow_hpo.errors import StudyError
from mlflow_hpo.tracking.artifacts import check_writable
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints
from mlflow_hpo.tracking.connect import (
    ask,
    connect,
    impatient,
    public_uri,
    without_passwords,
)
from mlflow_hpo.tracking.summary import SCHEMA, StudySummary, TrialSummary, best_metric
from mlflow_hpo.tracking.system_metrics import MachineMonitor
from mlflow_hpo.tracking.writer import Writer, is_final

TAG_LENGTH = 4_000  # characters of a reason or traceback; MLflow cuts tags at 8,000

logger = logging.getLogger(__name__)


class WorkerServices:
    """What workers need of the tracking room; it goes to them through a pipe and is written nowhere."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri

    def checkpoints(self, location: str) -> ArtifactCheckpoints:
        """Open the checkpoint store of the trial whose run has the artifact root `location`."""
        return ArtifactCheckpoints(location, self._tracking_uri)

    def monitor(self) -> MachineMonitor:
        """Open the machine's monitor."""
        return MachineMonitor()


class Tracker:
    """Writes one study to MLflow: the parent run, a nested run for each trial, their values and artifacts.

    Values go through one background writer; only what the study must wait for (the creation of a run) is
    waited for.

    Args:
        experiment: name of the experiment, created if need be; None for the one that MLflow's settings name.
        name: name of the parent run; None to let MLflow choose.
        tags: tags of the parent run.
        params: params of the parent run.
        artifacts: texts for the parent run's artifacts, path -> content. They are written before any trial
            starts, which shows that the artifact store can be written.

    Raises:
        StudyError: the tracking or artifact store is unreachable or not writable.
    """

    def __init__(
        self,
        *,
        experiment: str | None,
        name: str | None,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        artifacts: Mapping[str, str],
    ) -> None:
        # Left in the environment it would make workers write to the parent (mlflow issue 15713).
        adopted = os.environ.pop("MLFLOW_RUN_ID", None)
        self._client = connect()
        self.tracking_uri = mlflow.get_tracking_uri()
        self._context = ask("mlflow", run_context.resolve_tags)
        parent = ask(
            f"MLFLOW_TRACKING_URI: cannot write to {public_uri(self.tracking_uri)}",
            self._open_parent,
            adopted,
            experiment,
            name,
        )
        self.run_id: str = parent.info.run_id
        self.run_name: str = parent.info.run_name
        self.experiment_id: str = parent.info.experiment_id
        self.artifact_uri: str = parent.info.artifact_uri
        self.services = WorkerServices(self.tracking_uri)
        self._writer = Writer(self._client)
        try:
            check_writable(self.artifact_uri, self.tracking_uri)
            problem = f"artifact store: cannot write to {public_uri(self.artifact_uri)}"
            with impatient():
                for path, text in artifacts.items():
                    ask(problem, self._log_text, path, text)
        except BaseException as error:
            self.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            self.close()
            raise
        # `mlflow run` has logged its own flags as params before us, and params can't be overwritten
        self._writer.params(
            self.run_id, {key: value for key, value in params.items() if key not in parent.data.params}
        )
        self._writer.tags(self.run_id, {**tags, "hpo.kind": "study", "hpo.schema": SCHEMA})

    def start_trial(
        self, trial_id: int, params: Mapping[str, str], *, bracket: int, rung: int, seed: int
    ) -> tuple[str, str]:
        """Create the nested run of a trial; return its run id and artifact root."""
        tags = {
            **self._context,
            MLFLOW_PARENT_RUN_ID: self.run_id,
            "hpo.kind": "trial",
            "hpo.trial": str(trial_id),
            "hpo.bracket": str(bracket),
            "hpo.rung": str(rung),
            "hpo.seed": str(seed),
        }
        made = self._writer.call(
            self._client.create_run, self.experiment_id, tags=tags, run_name=f"trial-{trial_id:04d}"
        )
        run = ask("MLFLOW_TRACKING_URI: cannot create the run of a trial", made.result)
        run_id, location = run.info.run_id, run.info.artifact_uri
        self._writer.params(run_id, params)
        return run_id, location

    def metrics(self, run_id: str, values: Mapping[str, float], *, step: int, time: float) -> None:
        """Log metrics of one step; `time` in seconds since 1970."""
        self._writer.metrics(run_id, values, step=step, time=time)

    def progress(self, values: Mapping[str, float], *, step: int) -> None:
        """Log metrics of the study on the parent run."""
        self._writer.metrics(self.run_id, values, step=step, time=time.time())

    def tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Set tags; long values are cut."""
        self._writer.tags(run_id, {key: writable(value)[:TAG_LENGTH] for key, value in values.items()})

    def status(self, run_id: str, status: str) -> None:
        """Set the status of a trial's run."""
        self._writer.status(run_id, status)

    def delete_checkpoint(self, location: str, name: str) -> None:
        """Remove a checkpoint in the background; a failure is told, not raised."""
        self._in_background(f"cannot remove checkpoint {name}", self._checkpoints(location).delete, name)

    def fetch_checkpoint(self, location: str, epoch: int, folder: Path) -> Path | None:
        """Return a local copy of the checkpoint of `epoch`, or None if there is no intact one."""
        store = self._checkpoints(location)
        for stored, name in store.names():
            if stored == epoch:
                return store.download(name, folder)
        return None

    def table(self, record: StudySummary) -> None:
        """Write the table of trials to the parent run, as CSV and as an MLflow table."""
        rows = [_row(trial, record.metric) for trial in record.trials]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        self._log_text("trials.csv", text.getvalue())
        data = {column: [row.get(column) for row in rows] for column in columns}
        self._client.log_table(self.run_id, data, "trials.json")

    def log_text(self, path: str, text: str) -> None:
        """Write a text artifact to the parent run."""
        self._log_text(path, text)

    def flush(self) -> None:
        """Wait until everything is written. Raises StudyError if the store refuses it."""
        self._writer.flush()

    def describe(self, text: str) -> None:
        """Set what the MLflow UI shows as the parent run's description, in Markdown."""
        self._writer.tags(self.run_id, {MLFLOW_RUN_NOTE: text})

    def finish(self, status: str) -> None:
        """Set the parent's final status."""
        self._writer.status(self.run_id, status)

    def close(self) -> None:
        """Write what is left and end the writer; where it had to give up, leave no run RUNNING."""
        self._writer.close()
        if self._writer.failed:
            with contextlib.suppress(Exception), impatient():  # whatever broke the writer may break this
                self._end_runs()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the parent run MLflow's active run."""
        # MLflow refuses a run of another experiment than set_experiment has chosen, and left in this variable
        chosen = os.environ.get("MLFLOW_EXPERIMENT_ID", self.experiment_id)
        if chosen != self.experiment_id:
            mlflow.set_experiment(experiment_id=self.experiment_id)
        try:
            with mlflow.start_run(run_id=self.run_id, nested=mlflow.active_run() is not None):
                yield
        finally:
            if chosen != self.experiment_id:
                mlflow.set_experiment(experiment_id=chosen)

    def _open_parent(self, adopted: str | None, experiment: str | None, name: str | None) -> Run:
        if adopted is not None:
            run = self._client.get_run(adopted)
            if name is not None:
                self._client.set_tag(adopted, MLFLOW_RUN_NAME, name)
            return run
        tags = dict(self._context)
        active = mlflow.active_run()
        if active is not None:
            tags[MLFLOW_PARENT_RUN_ID] = active.info.run_id
        return self._client.create_run(self._experiment(experiment), tags=tags, run_name=name)

    def _experiment(self, name: str | None) -> str:
        name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if name is None:
            return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._client.create_experiment(name)
        if found.lifecycle_stage != "active":
            raise StudyError(f"experiment: {name!r} is deleted; restore it or choose another name")
        return found.experiment_id

    def _end_runs(self) -> None:
        mine = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}' and attributes.status = 'RUNNING'"
        trials = self._client.search_runs([self.experiment_id], mine, max_results=1_000)
        for run_id in (self.run_id, *(run.info.run_id for run in trials)):
            try:
                self._client.set_terminated(run_id, status="FAILED")
            except MlflowException as error:
                if not is_final(error):
                    return  # the store is away: one after the other would take hours

    def _checkpoints(self, location: str) -> ArtifactCheckpoints:
        return self.services.checkpoints(location)

    def _log_text(self, path: str, text: str) -> None:
        repository = get_artifact_repository(self.artifact_uri, tracking_uri=self.tracking_uri)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            file.write_text(text, encoding="utf-8")
            parent = str(Path(path).parent)
            repository.log_artifact(str(file), None if parent == "." else parent)

    def _in_background(self, problem: str, function: Any, *args: Any) -> None:
        def tell(future: Future[Any]) -> None:
            if (error := future.exception()) is not None:
                logger.warning("%s: %s", problem, without_passwords(str(error)))

        self._writer.call(function, *args).add_done_callback(tell)


def packages() -> str:
    """Return name==version of every installed distribution, a line each."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def as_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML, keys in their order."""
    return yaml.safe_dump(dict(data), sort_keys=False)


def as_param(value: Any) -> str:
    """Return a setting as the text of a param: JSON for anything but plain text.

    >>> as_param("tpe"), as_param({"name": "asha", "eta": 3}), as_param(27)
    ('tpe', '{"name": "asha", "eta": 3}', '27')
    """
    return value if isinstance(value, str) else json.dumps(value)


def writable(text: str) -> str:
    """Return `text` as every store takes it and anyone may read it.

    PostgreSQL knows no NUL and UTF-8 no half of a surrogate pair; both come in messages of errors, as do URIs
    with passwords.
    """
    return without_passwords(text).replace("\0", "").encode("utf-8", "replace").decode()


def _row(trial: TrialSummary, metric: str) -> dict[str, Any]:
    return {
        "trial": trial.trial_id,
        "run_id": trial.run_id,
        "status": trial.status,
        "bracket": trial.bracket,
        "rung": trial.rung,
        "epochs": trial.epochs,
        metric: trial.value,
        best_metric(metric): trial.best,
        "best_epoch": trial.best_epoch,
        "seconds": round(trial.seconds, 3),
        "reason": trial.reason,
        "infeasible": trial.infeasible,
        **{f"params.{name}": value for name, value in trial.params.items()},
    }
