"""A study in all its details, as its report shows them; read from MLflow alone."""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, connect
from mlflow_hpo.tracking.curves import NO_CURVE, Curve, Reading, written_curves
from mlflow_hpo.tracking.jobs import JOBS, WorkedJob, read_jobs
from mlflow_hpo.tracking.reader import read_space, summarised, summarised_trial
from mlflow_hpo.tracking.runs import check_study, found_run, trial_runs
from mlflow_hpo.tracking.scripts import ScriptTrials, reading_of
from mlflow_hpo.tracking.settings import settings
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary, best_metric

_THREADS = 8


class Progress(NamedTuple):
    """What a study had started and spent at one step, and its best value then; None before the first."""

    trials: int
    epochs: int
    seconds: float
    best: float | None


@dataclass(frozen=True, slots=True)
class TrialDetails:
    """One trial.

    Attributes:
        summary: its state.
        started, ended: seconds since 1970; None while it has not ended.
        curve: epochs and values of the metric that is optimised.
        jobs: what workers did for it, those that ended.
        origin: where its configuration comes from, "" if it is of no earlier study.
        traceback: the end of what a failed one raised.
        attempt: how often it was started, and started again after a failure.
    """

    summary: TrialSummary
    started: float
    ended: float | None = None
    curve: Curve = NO_CURVE
    jobs: tuple[WorkedJob, ...] = ()
    origin: str = ""
    traceback: str = ""
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class StudyDetails:
    """A study.

    Attributes:
        summary: its state.
        experiment: name of its experiment.
        task: what it searched.
        started, ended: seconds since 1970; None while it runs.
        space: what it searched in.
        workers: how many trials ran at a time at most.
        settings: its params without the prefix "hpo.", as texts.
        trials: by trial id.
        progress: step by step.
        warm_start: what it began with, as its artifact tells it; None where it was not asked to look.
        misled: why that was forgotten at once; "" if it was not.
    """

    summary: StudySummary
    experiment: str
    task: str
    started: float
    ended: float | None
    space: SearchSpace
    workers: int
    settings: Mapping[str, str]
    trials: tuple[TrialDetails, ...]
    progress: tuple[Progress, ...]
    warm_start: Mapping[str, Any] | None = None
    misled: str = ""


def read_details(
    run_id: str, client: MlflowClient | None = None, curves: Mapping[str, Curve] | None = None
) -> StudyDetails:
    """Return a study in all its details. Nothing is written.

    Curves are read from what the study has written down for all trials; only those of trials that went on
    since then are asked for one by one.

    Args:
        run_id: the parent run.
        client: of the tracking store; without one the store is looked at first.
        curves: of all trials, by run, where somebody knows them.

    Raises:
        ConfigError: `run_id` is no run, or not the parent run of a study.
        StudyError: the stores are unreachable.
    """
    if client is None:
        client = connect()
    parent = found_run(client, run_id, "run_id")
    check_study(parent, "run_id")
    space = read_space(run_id)
    trials = _trials(client, parent, space, curves)
    summary = summarised(parent, (each.summary for each in trials))
    experiment = ask(
        "MLFLOW_TRACKING_URI: cannot read the experiment", client.get_experiment, summary.experiment_id
    )
    params = settings(parent)
    return StudyDetails(
        summary=summary,
        experiment=experiment.name,
        task=parent.data.tags.get("hpo.task", ""),
        started=parent.info.start_time / 1000,
        ended=_seconds(parent.info.end_time),
        space=space,
        workers=int(params.get("hpo.workers", "1")),
        settings={
            name.removeprefix("hpo."): text for name, text in params.items() if name.startswith("hpo.")
        },
        trials=trials,
        progress=_progress(client, parent, summary.metric),
        warm_start=_warm_start(run_id) if "hpo.warm_start" in params else None,
        misled=parent.data.tags.get("hpo.warm_start_misled", ""),
    )


def _trials(
    client: MlflowClient, parent: Run, space: SearchSpace, curves: Mapping[str, Curve] | None
) -> tuple[TrialDetails, ...]:
    metric, over = parent.data.tags["hpo.metric"], parent.info.status != "RUNNING"
    known = curves
    if known is None:
        known = {run_id: curve for run_id, (curve, _) in written_curves(parent.info.run_id).items()}
    scripts = ScriptTrials(client, parent, known)
    trials: dict[str, TrialDetails] = {}
    stale: list[Run] = []
    for run in trial_runs(client, parent):  # not all at once: they are large
        curve = known.get(run.info.run_id, NO_CURVE)
        summary = summarised_trial(run, space, metric)
        trials[run.info.run_id] = _trial(run, summary, curve)
        scripts.look(run, summary)
        if curves is None and metric in run.data.metrics and not _is_known(run, known, over=over):
            stale.append(run)
    for run, curve in zip(stale, _asked(client, parent, stale), strict=True):
        trials[run.info.run_id] = replace(trials[run.info.run_id], curve=curve)
    for run_id, summary in scripts.found().items():
        trials[run_id] = replace(trials[run_id], summary=summary)
    return tuple(sorted(trials.values(), key=lambda each: each.summary.trial_id))


def _trial(run: Run, summary: TrialSummary, curve: Curve) -> TrialDetails:
    tags = run.data.tags
    return TrialDetails(
        summary=summary,
        started=run.info.start_time / 1000,
        ended=_seconds(run.info.end_time),
        curve=curve,
        jobs=read_jobs(tags.get(JOBS, "")),
        origin=tags.get("hpo.warm_start", ""),
        traceback=tags.get("hpo.traceback", ""),
        attempt=int(tags.get("hpo.attempt", "1")),
    )


def _asked(client: MlflowClient, parent: Run, runs: Sequence[Run]) -> list[Curve]:
    """Return the curves of trials, asked for one by one."""
    if not runs:
        return []
    reading = reading_of(client, parent)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-details") as pool:
        return list(pool.map(lambda run: _curve(reading, run, parent.data.tags["hpo.metric"]), runs))


def _is_known(run: Run, curves: Mapping[str, Curve], *, over: bool) -> bool:
    """Whether a trial's curve is as it was written down, though epochs may be left out of it."""
    if run.info.run_id not in curves:
        return False
    epochs, _ = curves[run.info.run_id]
    reached = int(run.data.tags.get("hpo.epochs", "0"))
    return (over and run.info.status != "RUNNING") or bool(epochs and epochs[-1] == reached)


def _curve(reading: Reading, run: Run, metric: str) -> Curve:
    points = sorted(reading.history(run, metric), key=lambda point: (point.step, point.time))
    by_epoch = {point.step: point.value for point in points if math.isfinite(point.value)}
    return array("q", by_epoch), array("d", by_epoch.values())


def _progress(client: MlflowClient, parent: Run, metric: str) -> tuple[Progress, ...]:
    def by_step(name: str) -> dict[int, float]:
        if name not in parent.data.metrics:
            return {}
        problem = "MLFLOW_TRACKING_URI: cannot read the progress"
        found = ask(problem, client.get_metric_history, parent.info.run_id, name)
        return {point.step: point.value for point in found}

    trials, epochs, seconds = map(by_step, ("trials_started", "epochs_spent", "seconds_spent"))
    best = by_step(best_metric(metric))
    return tuple(
        Progress(int(trials[step]), int(epochs[step]), seconds[step], best.get(step))
        for step in sorted(trials.keys() & epochs.keys() & seconds.keys())
    )


def _warm_start(run_id: str) -> Mapping[str, Any] | None:
    with contextlib.suppress(Exception):  # it explains, no more
        found = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/warm_start.json"))
        return found if isinstance(found, dict) else None
    return None


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
