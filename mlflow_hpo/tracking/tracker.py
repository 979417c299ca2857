"""Tracker: a study's runs in MLflow, as its driver writes them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import DatasetInput, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.tracking.context import registry as run_context
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from mlflow_hpo.errors import StudyError
from mlflow_hpo.patience import impatient
from mlflow_hpo.recording import RecordedTrial, Recording
from mlflow_hpo.tracking.artifacts import check_shared, check_writable
from mlflow_hpo.tracking.away import in_one_line
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints
from mlflow_hpo.tracking.connect import anywhere, ask, connect, public_uri, without_passwords
from mlflow_hpo.tracking.following import Following, copy_metrics
from mlflow_hpo.tracking.known import KnownRunsWriter
from mlflow_hpo.tracking.lease import DRIVER, Lease, Renewals
from mlflow_hpo.tracking.opening import open_parent
from mlflow_hpo.tracking.outage import is_final
from mlflow_hpo.tracking.recovery import read_recording
from mlflow_hpo.tracking.runs import TrialRun
from mlflow_hpo.tracking.summary import SCHEMA, StudySummary, TrialSummary, best_metric
from mlflow_hpo.tracking.system_metrics import MachineMonitor
from mlflow_hpo.tracking.within import INSIDE, Within
from mlflow_hpo.tracking.writer import Writer

OF_SOURCE = ("mlflow.source.", "mlflow.gitRepo", "mlflow.gitBranch")  # MLflow's tags for code
AGAIN = "trained again, in the run above"  # why an attempt ended
TABLE = "trials.json"
TAG_LENGTH = 4_000  # characters of a reason or traceback; MLflow cuts tags at 8,000

logger = logging.getLogger(__name__)


class WorkerServices(Following):
    """What workers need of the tracking room; it goes to them through a pipe and is written nowhere.

    Args:
        tracking_uri: of the store.
        experiment_id: of the runs.
        artifact_uri: root of the parent run's artifacts.
        metrics: names of the metrics that the search looks at.
    """

    def __init__(
        self, tracking_uri: str, experiment_id: str, artifact_uri: str, metrics: Iterable[str]
    ) -> None:
        super().__init__(tracking_uri, experiment_id)
        self._artifact_uri = artifact_uri
        self._metrics = frozenset(metrics)

    def check(self) -> None:
        """Raise StudyError if checkpoints cannot be stored from this machine."""
        check_shared(self._artifact_uri)
        check_writable(self._artifact_uri, self._tracking_uri)

    def checkpoints(self, location: str) -> ArtifactCheckpoints:
        """Open the checkpoint store of the trial whose run has the artifact root `location`."""
        return ArtifactCheckpoints(location, self._tracking_uri)

    def within(
        self, params: Mapping[str, Any], reported: Set[str], run_id: Callable[[], str]
    ) -> contextlib.AbstractContextManager[None]:
        """Return what stands around training code: what it logs by itself goes to a run; see `within`."""
        uri = anywhere(self._tracking_uri)
        trial = Within(run_id, params, self._metrics, reported)
        return INSIDE.trial(trial, uri, self.environment("", {}))

    def monitor(self) -> MachineMonitor:
        """Open the machine's monitor."""
        return MachineMonitor()


class Tracker:
    """Writes one study to MLflow: the parent run, a nested run for each trial, their values and artifacts.

    Made by `begin` or `resume`. Values go through one background writer; only what the study must wait for
    (the creation of a run) is waited for.

    Args:
        client: of the tracking store.
        parent: the parent run.
        context: tags that MLflow gives every run that is made here: user, source, commit.
        lease: says that this is the study's driver.
        recording: what is known of the study, if it is resumed.
        invocation: a run that `mlflow run` made for the resuming of a study; it ends as the study does.

    Attributes:
        recording: as given, or newer where another driver was at work until its study was taken over.
    """

    def __init__(
        self,
        client: MlflowClient,
        parent: Run,
        context: Mapping[str, str],
        lease: Lease,
        recording: Recording | None = None,
        invocation: str | None = None,
    ) -> None:
        self._client = client
        self._lease = lease
        self._invocation = invocation
        self._tags: Mapping[str, str] = parent.data.tags
        self.tracking_uri = mlflow.get_tracking_uri()
        self._context = context
        self.run_id: str = parent.info.run_id
        self.run_name: str = parent.info.run_name
        self.experiment_id: str = parent.info.experiment_id
        self.artifact_uri: str = parent.info.artifact_uri
        self._writer: Writer | KnownRunsWriter = Writer(client, study=self.run_id)
        self._known: dict[int, RecordedTrial] = {}
        self.recording = recording
        if recording is not None:
            self._writer = KnownRunsWriter(self._writer, recording)
            self._known = dict(recording.trials)
        self._renewals = Renewals(lease)

    @classmethod
    def begin(
        cls,
        *,
        experiment: str | None,
        name: str | None,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        artifacts: Mapping[str, str | bytes],
        data: DatasetInput | None = None,
        source: Mapping[str, str] | None = None,
    ) -> Tracker:
        """Begin a study: make its parent run, or take the one that `mlflow run` made.

        Args:
            experiment: name of the experiment, created if need be; None for the one that MLflow's settings
                name.
            name: name of the parent run; None to let MLflow choose.
            tags: tags of the parent run.
            params: params of the parent run.
            artifacts: the parent run's first artifacts, path -> content. They are written before any
                trial starts, which shows that the artifact store can be written.
            data: what is trained on, if that is known.
            source: tags of every run that say where the training code is from, where it is not this process.

        Raises:
            StudyError: the tracking or artifact store is unreachable or not writable.
        """
        adopted = _adopted()
        client = connect()
        context = _context(source)
        parent = ask(_cannot_write(), open_parent, client, context, adopted, experiment, name)
        lease = Lease(client, parent.info.run_id)
        tracker = cls(client, parent, context, lease)
        try:
            tracker.log_first(artifacts)
            if data is not None:
                ask(_cannot_write(), client.log_inputs, parent.info.run_id, [data])
        except BaseException as error:
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            tracker.close()
            raise
        # `mlflow run` has logged its own flags as params before us, and params can't be overwritten
        new = {key: value for key, value in params.items() if key not in parent.data.params}
        tracker._writer.params(tracker.run_id, new)
        kind = {"hpo.kind": "study", "hpo.schema": SCHEMA}
        tracker._writer.tags(tracker.run_id, {**tags, **kind, **lease.tag()})
        return tracker

    @classmethod
    def resume(
        cls, recording: Recording, *, take_over: bool, source: Mapping[str, str] | None = None
    ) -> Tracker:
        """Open a study again; nothing but its lease is written until `go_live`.

        Args:
            recording: what is known of it.
            take_over: also where another driver may be at work on it.
            source: as in `begin`.

        Raises:
            StudyError: the tracking store is unreachable, or another driver is at work.
        """
        adopted = _adopted()
        client = connect()
        parent = ask(_cannot_write(), client.get_run, recording.run_id)
        if adopted == recording.run_id:
            adopted = None
        if adopted is not None:
            link = {"hpo.kind": "resume", "hpo.study": recording.run_id}
            ask(_cannot_write(), client.log_batch, adopted, tags=[RunTag(*each) for each in link.items()])
        lease = Lease(client, recording.run_id)
        if ask("resume", lease.take, take_over=take_over):  # it has made history since this was read
            recording = read_recording(recording.run_id)
            parent = ask(_cannot_write(), client.get_run, recording.run_id)
        return cls(client, parent, _context(source), lease, recording, adopted)

    def log_first(self, artifacts: Mapping[str, str | bytes]) -> None:
        """Write artifacts of the parent run before anything else, which shows that they can be written.

        Raises:
            StudyError: they cannot.
        """
        check_writable(self.artifact_uri, self.tracking_uri)
        problem = f"artifact store: cannot write to {public_uri(self.artifact_uri)}"
        with impatient():
            for path, content in artifacts.items():
                ask(problem, self._log_text, path, content)

    def go_live(self, tags: Mapping[str, str]) -> None:
        """Write what a resumed study is, as far as its runs do not say so; from now on nothing is held back.

        Args:
            tags: of the parent run.
        """
        if isinstance(self._writer, KnownRunsWriter):
            self._writer.release()
        self._writer.tags(self.run_id, {**tags, "hpo.stop_reason": ""})
        self._writer.status(self.run_id, "RUNNING")

    def services(self, metrics: Iterable[str]) -> WorkerServices:
        """Return what workers need of the tracking room.

        Args:
            metrics: names of the metrics that the search looks at.
        """
        return WorkerServices(self.tracking_uri, self.experiment_id, self.artifact_uri, metrics)

    @property
    def client(self) -> MlflowClient:
        """For reading what is in the store."""
        return self._client

    @property
    def away(self) -> float | None:
        """For how many seconds the tracking store has been away; None while it answers."""
        return self._writer.away

    def check_lease(self) -> None:
        """See that this is the driver still; to be called again and again. Raises LeaseLostError."""
        self._renewals.check()

    def end_left_over(self) -> None:
        """End the recorded trials that a resumed study did not come to again."""
        for trial in self._known.values():
            if trial.status in ("RUNNING", "SCHEDULED"):
                self._writer.tags(trial.run_id, {"hpo.stop_reason": "not reached again by the resumed study"})
                self._writer.status(trial.run_id, "KILLED")
        self._known.clear()

    def abandon(self) -> None:
        """Write nothing more: everything stays as it is in the store."""
        self._renewals.end()
        self._writer.abandon()

    def release_lease(self) -> None:
        """Be the driver no more; where the store is away the lease runs out."""
        self._renewals.end()
        with contextlib.suppress(Exception):
            self._lease.release()

    def start_trial(
        self, trial_id: int, params: Mapping[str, str], *, bracket: int, rung: int, seed: int, origin: str
    ) -> Future[TrialRun]:
        """Create the nested run of a trial, if there is none, in the background.

        `origin` says where a configuration of earlier studies comes from, "" for others.
        """
        job = {"hpo.bracket": str(bracket), "hpo.rung": str(rung), "hpo.seed": str(seed)}
        if origin:
            job["hpo.warm_start"] = origin
        if (known := self._known.pop(trial_id, None)) is not None:
            return self._started_again(known, params, job)
        tags = {
            **self._context,
            MLFLOW_PARENT_RUN_ID: self.run_id,
            "hpo.kind": "trial",
            "hpo.trial": str(trial_id),
            **job,
        }

        started: Future[TrialRun] = Future()

        def made(creation: Future[Run]) -> None:
            problem = "MLFLOW_TRACKING_URI: cannot create the run of a trial"
            try:
                run = ask(problem, creation.result)
                self._writer.params(run.info.run_id, params)
            except StudyError as error:
                started.set_exception(error)
            else:
                started.set_result(TrialRun(run.info.run_id, run.info.artifact_uri))

        name = f"trial-{trial_id:04d}"
        self._writer.create_run(self.experiment_id, tags=tags, run_name=name).add_done_callback(made)
        return started

    def after(
        self, coming: Future[TrialRun], before: TrialRun, *, copied_without: str | None
    ) -> Future[TrialRun]:
        """Put the run that a trial had before below the new one, as an attempt; return the new one.

        Args:
            coming: the new run.
            before: the old one.
            copied_without: the new run begins with all metrics of the old one but this; None for none.
        """
        ready: Future[TrialRun] = Future()

        def made(creation: Future[TrialRun]) -> None:
            if (error := creation.exception()) is not None:
                ready.set_exception(error)
                return
            run = creation.result()
            below = {MLFLOW_PARENT_RUN_ID: run.run_id, "hpo.kind": "attempt", "hpo.stop_reason": AGAIN}
            try:
                self._writer.tags(before.run_id, below)
                self._writer.status(before.run_id, "KILLED")
                if copied_without is None:
                    ready.set_result(run)
                    return
                names = (before.run_id, run.run_id)
                copying = self._writer.call(copy_metrics, self._client, *names, without=copied_without)
            except StudyError as refused:
                ready.set_exception(refused)
                return
            copying.add_done_callback(copied)

        def copied(copying: Future[None]) -> None:
            if (error := copying.exception()) is not None:
                logger.warning("the metrics of an attempt stay in its run: %s", without_passwords(str(error)))
            ready.set_result(coming.result())

        coming.add_done_callback(made)
        return ready

    def _started_again(
        self, known: RecordedTrial, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> Future[TrialRun]:
        self._writer.params(known.run_id, params)
        self._writer.status(known.run_id, "RUNNING")
        cleared = {"hpo.stop_reason": ""} if known.reason else {}
        self._writer.tags(known.run_id, {**tags, **cleared})
        return TrialRun(known.run_id, known.location).at_once()

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
        """Write the table of trials to the parent run, as CSV and as an MLflow table.

        Raises StudyError of one line where that fails: a StoreAwayError if it may succeed later.
        """
        data: dict[str, list[Any]] = {}  # by column: as rows those of a large study take ten times the memory
        for at, trial in enumerate(record.trials):
            for column, value in _row(trial, record.metric).items():
                data.setdefault(column, [None] * len(record.trials))[at] = value
        self.log_text("trials.csv", _csv(data))
        rows = [[_plain(value) for value in row] for row in zip(*data.values(), strict=True)]
        self.log_text(TABLE, json.dumps({"columns": list(data), "data": rows}))
        # what `MlflowClient.log_table` writes; but that would append to the table of before a resume
        logged = json.loads(self._tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if (table := {"path": TABLE, "type": "table"}) not in logged:
            self.tags(self.run_id, {MLFLOW_LOGGED_ARTIFACTS: json.dumps([*logged, table])})

    def log_text(self, path: str, text: str) -> None:
        """Write a text artifact to the parent run.

        Raises StudyError of one line where that fails: a StoreAwayError if it may succeed later.
        """
        with in_one_line(f"cannot write {path}"), impatient():
            self._log_text(path, text)

    def log_file(self, file: Path) -> None:
        """Write a file to the parent run's artifacts, under its own name. Raises what `log_text` does."""
        with in_one_line(f"cannot write {file.name}"), impatient():
            self._log_file(file, None)

    def log_later(self, path: str, text: str) -> None:
        """Write a text artifact to the parent run in the background; a failure is told, not raised."""
        self._in_background(f"cannot write {path}", self._log_text, path, text)

    def flush(self) -> None:
        """Wait until everything is written. Raises what `Writer.flush` does."""
        self._writer.flush()

    def describe(self, text: str) -> None:
        """Set what the MLflow UI shows as the parent run's description, in Markdown."""
        self._writer.tags(self.run_id, {MLFLOW_RUN_NOTE: text})

    def finish(self, status: str) -> None:
        """Set the parent's final status, and let another driver have it."""
        self._renewals.end()
        self._writer.tags(self.run_id, {DRIVER: ""})
        self._writer.status(self.run_id, status)
        if self._invocation is not None:
            self._writer.status(self._invocation, status)

    def close(self) -> None:
        """Write what is left and end the writer; where it had to give up, leave no run RUNNING."""
        self._renewals.end()
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
        return ArtifactCheckpoints(location, self.tracking_uri)

    def _log_text(self, path: str, content: str | bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            parent = str(Path(path).parent)
            self._log_file(file, None if parent == "." else parent)

    def _log_file(self, file: Path, parent: str | None) -> None:
        repository = get_artifact_repository(self.artifact_uri, tracking_uri=self.tracking_uri)
        repository.log_artifact(str(file), parent)

    def _in_background(self, problem: str, function: Any, *args: Any) -> None:
        def tell(future: Future[Any]) -> None:
            if (error := future.exception()) is not None:
                logger.warning("%s: %s", problem, without_passwords(str(error)))

        self._writer.call(function, *args).add_done_callback(tell)


def _adopted() -> str | None:
    """Take the run that `mlflow run` made for us out of the environment.

    Left there it would make workers write to the parent (mlflow issue 15713).
    """
    return os.environ.pop("MLFLOW_RUN_ID", None)


def _context(source: Mapping[str, str] | None) -> dict[str, str]:
    tags: dict[str, str] = ask("mlflow", run_context.resolve_tags)
    if source:  # the training code is not what this process is made of
        tags = {name: value for name, value in tags.items() if not name.startswith(OF_SOURCE)}
    return {**tags, **(source or {})}


def _cannot_write() -> str:
    return f"MLFLOW_TRACKING_URI: cannot write to {public_uri(mlflow.get_tracking_uri())}"


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


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(data: Mapping[str, list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(data)
    writer.writerows(zip(*data.values(), strict=True))
    return text.getvalue()


def _row(trial: TrialSummary, metric: str) -> dict[str, Any]:
    row = trial.row(value=metric, best=best_metric(metric)) | {"seconds": round(trial.seconds, 3)}
    return row | {f"params.{name}": value for name, value in trial.params.items()}
