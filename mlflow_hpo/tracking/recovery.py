"""Recovery: all that MLflow holds of a study, so that it can go on."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import itemgetter
from typing import Any

import mlflow
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StudyError
from mlflow_hpo.patience import impatient
from mlflow_hpo.recording import RecordedTrial, Recording, Reports
from mlflow_hpo.steps import Point
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints
from mlflow_hpo.tracking.connect import ask, connect
from mlflow_hpo.tracking.curves import Curve, Reading, written_curves
from mlflow_hpo.tracking.runs import PAGE, check_study, found_run, trial_runs
from mlflow_hpo.tracking.settings import settings
from mlflow_hpo.tracking.spool import spool_folder
from mlflow_hpo.tracking.summary import OURS, SYSTEM
from mlflow_hpo.tracking.sync import sync

ATTEMPT = "hpo.attempt"  # tag of a trial: how often it was started, and started again after a failure
CHECKPOINTS = "hpo.checkpoints"  # tag of a trial: names of its checkpoints in the store by epoch, as JSON
REMEMBERED = "hpo.remembered"  # tag of the parent run: trials below this number are of earlier searches, ...
BUT_NOT = "hpo.remembered_but_not"  # ... but for these, as JSON
RESUMES = "hpo.resumes"  # tag of the parent run: how often the study was resumed
SAMPLES = "hpo.samples"  # tag of a trial: how many samples of system metrics it has
STEPS = "trials_done"  # the metric of the parent run that every step of the progress has

_THREADS = 8


def settings_path(resumes: int) -> str:
    """Return where the settings stand that a study goes by after so many resumes."""
    return f"resumed/{resumes:03d}/search.yaml" if resumes else "search.yaml"


def remembered(tags: Mapping[str, str]) -> set[int]:
    """Return which trials of a study are of earlier searches than its latest, by the parent run's tags."""
    return set(range(int(tags.get(REMEMBERED, "0")))).difference(json.loads(tags.get(BUT_NOT, "[]")))


def remembered_tags(trials: Set[int]) -> dict[str, str]:
    """Return the tags of the parent run that say which trials are of earlier searches."""
    bound = max(trials, default=-1) + 1
    return {REMEMBERED: str(bound), BUT_NOT: json.dumps(sorted(set(range(bound)) - trials))}


def read_recording(run_id: str) -> Recording:
    """Return all that MLflow holds of a study.

    Args:
        run_id: the parent run.

    Raises:
        ConfigError: `run_id` is no run, or not the parent run of a study.
        StudyError: the stores are unreachable, or what they hold is damaged.
    """
    client = connect()
    if (left := spool_folder() / run_id).is_dir():  # what a driver on this machine could not write any more
        sync(left, client)
    parent = found_run(client, run_id, "resume")
    tags = parent.data.tags
    if tags.get("hpo.kind") == "resume" and "hpo.study" in tags:
        return read_recording(tags["hpo.study"])
    check_study(parent, "resume")
    keys = read_settings(parent)
    metrics = parent.data.metrics
    steps = ask("MLFLOW_TRACKING_URI: cannot read the progress", client.get_metric_history, run_id, STEPS)
    return Recording(
        run_id=run_id,
        tags=dict(tags),
        keys=keys,
        trials=_trials(client, parent, keys),
        steps=max((point.step + 1 for point in steps), default=0),
        epochs=int(metrics.get("epochs_spent", 0)),
        seconds=metrics.get("seconds_spent", 0.0),
        gpu_hours=metrics.get("gpu_hours_spent", 0.0),
        looked=bool(keys.get("warm_start")) or "hpo.warm_start" in settings(parent),
    )


def is_of_bundled_training(run_id: str) -> bool:
    """Whether a study is of the bundled training, as far as its record can be read.

    Args:
        run_id: the parent run.
    """
    with impatient(), contextlib.suppress(Exception):  # what cannot be read is told by what needs it
        facts = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/data.json"))
        return "data.sha256" in facts
    return True


def read_settings(parent: Run) -> dict[str, Any]:
    """Return the search.yaml of a study, as it was last resumed.

    Raises:
        StudyError: it cannot be read, or is damaged.
    """
    run_id, path = parent.info.run_id, settings_path(int(parent.data.tags.get(RESUMES, "0")))
    try:
        with impatient():
            keys = yaml.safe_load(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}"))
    except Exception as error:
        line = " ".join(str(error).split())
        raise StudyError(
            f"resume: cannot read {path} of run {run_id}; a study that was killed before it had written it "
            f"has no trials, and can be started again: {line:.200}"
        ) from error
    if not isinstance(keys, dict) or not isinstance(keys.get("metric"), dict):
        raise StudyError(f"resume: {path} of run {run_id} is damaged")
    return keys


def _trials(client: MlflowClient, parent: Run, keys: Mapping[str, Any]) -> dict[int, RecordedTrial]:
    reading = Reading.of(client, keys)
    written = _written(parent, reading.names)
    found: dict[int, tuple[tuple[int, int, int], RecordedTrial]] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-recovery") as pool:
        children = trial_runs(client, parent)
        while runs := list(islice(children, PAGE)):  # not all at once: they are large
            trials = pool.map(lambda run: _trial(reading, run, written), runs)
            for run, trial in zip(runs, trials, strict=True):
                this = _worth(run), trial
                lesser, better = sorted((found.get(trial.trial_id, this), this), key=itemgetter(0))
                found[trial.trial_id] = better
                if lesser is not better:
                    _delete_empty(client, *lesser)
    return {trial_id: found[trial_id][1] for trial_id in sorted(found)}


def _delete_empty(client: MlflowClient, worth: tuple[int, int, int], trial: RecordedTrial) -> None:
    """Delete the second run of a trial, of which nobody has heard as the answer to its creation was lost."""
    if worth[0] == 0:
        ask("MLFLOW_TRACKING_URI: cannot delete an empty run", client.delete_run, trial.run_id)


def _worth(run: Run) -> tuple[int, int, int]:
    return len(run.data.metrics), len(run.data.params), -run.info.start_time


def _written(parent: Run, names: list[str]) -> dict[str, Curve]:
    """Return the curves that the study has written down, by run: of those trials of which it is all.

    What is missing there is asked for run by run.
    """
    if len(names) > 1:
        return {}
    with impatient():
        written = written_curves(parent.info.run_id)
    return {run_id: curve for run_id, (curve, whole) in written.items() if whole}


def _trial(reading: Reading, run: Run, written: Mapping[str, Curve]) -> RecordedTrial:
    run_id, tags, names = run.info.run_id, run.data.tags, reading.names
    trial = RecordedTrial(
        trial_id=int(tags["hpo.trial"]),
        run_id=run_id,
        location=run.info.artifact_uri,
        texts={sys.intern(name): text for name, text in run.data.params.items() if name in reading.space},
        status=run.info.status,
        reason=tags.get("hpo.stop_reason", ""),
        rung=int(tags.get("hpo.rung", "0")),
        seconds=float(tags.get("hpo.seconds", "0")),
        samples=int(tags.get(SAMPLES, "0")),
        tags={sys.intern(name): value for name, value in tags.items() if name.startswith("hpo.")},
        checkpoints=_checkpoints(tags.get(CHECKPOINTS, "{}")),
    )
    epochs, values = written.get(run_id, (None, None))
    if run.info.status == "RUNNING":  # its driver was killed: look what is there
        _look_closely(reading, run, trial)
    elif epochs and values and epochs[-1] == int(tags.get("hpo.epochs", "0")):
        trial.reports = Reports(epochs, _spread(run, len(epochs)), {names[0]: values})
    elif run.data.metrics:
        trial.reports = _reports({name: reading.history(run, name) for name in names}, names)
        if reading.scripts and trial.reached != int(tags.get("hpo.epochs", "0")):
            _look_closely(reading, run, trial)  # its script has ended it after its driver was killed
    return trial


def _look_closely(reading: Reading, run: Run, trial: RecordedTrial) -> None:
    """Find out what was written of a trial before its driver was killed."""
    histories = {name: reading.history(run, name) for name in run.data.metrics}
    trial.points = frozenset((name, point.step) for name in histories for point in histories[name])
    trial.reports = _reports(histories, reading.names)
    if not reading.scripts and not _whole(trial):  # it will be told again when it is trained again
        trial.reports = trial.reports.without_last()
    samples = (point.step for name in histories if name.startswith(SYSTEM) for point in histories[name])
    trial.samples = max(samples, default=-1) + 1
    store = ArtifactCheckpoints(trial.location, mlflow.get_tracking_uri())
    stored = ask(f"artifact store: cannot list checkpoints of trial {trial.trial_id}", store.names)
    trial.checkpoints = dict(stored)


def _whole(trial: RecordedTrial) -> bool:
    """Whether of its last report is there what was there of the one before."""
    if len(trial.reports) < 2:
        return True
    before, last = (report.epoch for report in trial.reports[-2:])
    expected = (name for name, step in trial.points if step == before and not name.startswith(OURS))
    return all((name, last) in trial.points for name in expected)


def _reports(histories: Mapping[str, Iterable[Point]], names: list[str]) -> Reports:
    """Return what the search was told, by ascending epoch: always the metric that it optimises."""
    values: dict[str, dict[int, float]] = {name: {} for name in names}
    times: dict[int, float] = {}
    for name in names:
        for point in sorted(histories.get(name, ()), key=lambda point: point.time):
            values[name][point.step] = point.value
            times[point.step] = point.time
    epochs = sorted(values[names[0]])
    return Reports(
        epochs,
        [times[epoch] for epoch in epochs],
        {name: [values[name].get(epoch, math.nan) for epoch in epochs] for name in names},
        frozenset(
            (name, place) for name in names for place, epoch in enumerate(epochs) if epoch not in values[name]
        ),
    )


def _spread(run: Run, count: int) -> list[float]:
    """Return about when each of the reports was made, where only begin and end are known."""
    begin = run.info.start_time / 1000
    end = (run.info.end_time or run.info.start_time) / 1000
    return [begin + (end - begin) * (number + 1) / count for number in range(count)]


def _checkpoints(text: str) -> dict[int, str]:
    with contextlib.suppress(ValueError, AttributeError):
        return {int(epoch): str(name) for epoch, name in json.loads(text).items()}
    return {}
