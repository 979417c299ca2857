"""A study as its report's page takes it: plain data, column by column, as small as can be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from mlflow_hpo.reports.failures import grouped
from mlflow_hpo.reports.importance import importance
from mlflow_hpo.reports.text import STATES
from mlflow_hpo.space import CategoricalParameter, Parameter
from mlflow_hpo.tracking.connect import public_uri
from mlflow_hpo.tracking.details import Progress, StudyDetails, TrialDetails

FATES = tuple(STATES)  # a trial's status is its place here
STEPS = 400  # of the progress that the page draws
INACTIVE = object()  # instead of a value; None may be a choice


def columns(study: StudyDetails) -> dict[str, Any]:
    """Return all that the page shows of a study; what is not finite is null.

    Columns of trials have one value a trial. Of a categorical parameter a value is the place among its
    labels, null where it is not active; texts are places in `texts`. Curves are `[[epoch, ...], [value,
    ...]]`, the epochs being only their number where they are 1, 2, 3, ...
    """
    summary, trials = study.summary, study.trials
    texts: dict[str, int] = {"": 0}
    ranked = summary.ranked()
    return {
        "run": summary.run_id,
        "name": summary.name,
        "experiment": study.experiment,
        "task": study.task,
        "link": _link(study),
        "status": summary.status,
        "reason": summary.reason,
        "metric": summary.metric,
        "mode": summary.mode,
        "searcher": summary.searcher,
        "scheduler": summary.scheduler,
        "planned": summary.trials_planned,
        "max": summary.max_resource,
        "workers": study.workers,
        "started": study.started,
        "ended": study.ended,
        "read": datetime.now(UTC).timestamp(),
        "seconds": round(summary.seconds, 1),
        "epochs": summary.epochs,
        "gpuHours": round(summary.gpu_hours, 4),
        "budget": {name: _finite(limit) for name, limit in summary.budget.items()},
        "model": summary.model,
        "settings": dict(study.settings),
        "best": summary.trials.index(ranked[0]) if ranked else None,
        "space": [_parameter(name, parameter) for name, parameter in study.space.items()],
        "params": [_values(name, parameter, trials) for name, parameter in study.space.items()],
        "trials": {
            "id": [each.summary.trial_id for each in trials],
            "run": [each.summary.run_id for each in trials],
            "fate": [FATES.index(each.summary.status) for each in trials],
            "value": [_finite(each.summary.value) for each in trials],
            "best": [_finite(each.summary.best) for each in trials],
            "bestEpoch": [each.summary.best_epoch for each in trials],
            "epochs": [each.summary.epochs for each in trials],
            "seconds": [round(each.summary.seconds, 2) for each in trials],
            "bracket": [each.summary.bracket for each in trials],
            "rung": [each.summary.rung for each in trials],
            "attempt": [each.attempt for each in trials],
            "started": [_since(study, each.started) for each in trials],
            "ended": [None if each.ended is None else _since(study, each.ended) for each in trials],
            "reason": [texts.setdefault(each.summary.reason, len(texts)) for each in trials],
            "infeasible": [texts.setdefault(each.summary.infeasible, len(texts)) for each in trials],
            "origin": [texts.setdefault(each.origin, len(texts)) for each in trials],
            "jobs": [
                [[job.worker, _since(study, job.begin), round(job.end - job.begin, 2)] for job in each.jobs]
                for each in trials
            ],
        },
        "curves": [_curve(each) for each in trials],
        "texts": list(texts),
        "incumbent": [_step(each) for each in improvements(study.progress)],
        "progress": [_step(each) for each in _thinned(study.progress)],
        "importance": importance(study).plain(),
        "warmStart": study.warm_start,
        "misled": study.misled,
        "failures": [group.plain() for group in grouped(trials)],
    }


def improvements(progress: Iterable[Progress]) -> list[Progress]:
    """Return the steps at which there was a new best value, and the last step."""
    kept: list[Progress] = []
    last: Progress | None = None
    for step in progress:
        if step.best is not None and (not kept or step.best != kept[-1].best):
            kept.append(step)
        last = step
    return kept if last is None or last.best is None or last is kept[-1] else [*kept, last]


def _thinned(progress: tuple[Progress, ...]) -> list[Progress]:
    every = max(1, math.ceil(len(progress) / STEPS))
    kept = list(progress[::every])
    return kept if not progress or kept[-1] is progress[-1] else [*kept, progress[-1]]


def _step(progress: Progress) -> list[float | None]:
    return [progress.trials, progress.epochs, round(progress.seconds, 2), _finite(progress.best)]


def _link(study: StudyDetails) -> str:
    """Return where MLflow's own pages of runs are, but for the run's id; "" if the store is no server."""
    uri = public_uri(study.summary.tracking_uri)
    if not uri.startswith(("http://", "https://")):
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{study.summary.experiment_id}/runs/"


def _parameter(name: str, parameter: Parameter) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "type": parameter.type}
    if isinstance(parameter, CategoricalParameter):
        return about | {"labels": [str(choice) for choice in parameter.choices]}
    written = parameter.to_dict()
    about |= {"low": written["low"], "high": written["high"], "log": written.get("log", False)}
    return about


def _values(name: str, parameter: Parameter, trials: Iterable[TrialDetails]) -> list[Any]:
    found = [each.summary.params.get(name, INACTIVE) for each in trials]
    if isinstance(parameter, CategoricalParameter):
        places = {str(choice): place for place, choice in enumerate(parameter.choices)}
        return [None if value is INACTIVE else places[str(value)] for value in found]
    return [None if value is INACTIVE else value for value in found]


def _curve(trial: TrialDetails) -> list[Any]:
    epochs, values = trial.curve
    plain = list(epochs)
    short = len(plain) if plain == list(range(1, len(plain) + 1)) else plain
    return [short, [_finite(float(f"{value:.6g}")) for value in values]]


def _since(study: StudyDetails, time: float) -> float:
    return round(time - study.started, 2)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
