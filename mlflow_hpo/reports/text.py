"""A study in words: the lines that the terminal shows."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from mlflow_hpo.reports.words import brief, plain
from mlflow_hpo.tracking.connect import public_uri
from mlflow_hpo.tracking.summary import StudySummary

_MARKS = 8  # epochs that one line shows
STATES = {
    "RUNNING": "running",
    "SCHEDULED": "paused",
    "FINISHED": "fully trained",
    "KILLED": "stopped early",
    "FAILED": "failed",
}


def duration(seconds: float) -> str:
    """Return a time span for people.

    >>> duration(7.25), duration(83), duration(3723)
    ('7.2s', '1m 23s', '1h 02m')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def states(study: StudySummary) -> str:
    """Return how many trials are in which state, such as "3 running, 9 paused (infeasible: 2)"."""
    parts = [f"{n} {word}" for status, word in STATES.items() if (n := study.count(status))]
    infeasible = f" (infeasible: {n})" if (n := study.count_infeasible()) else ""
    return ", ".join(parts) + infeasible if parts else "no trial yet"


def rungs(study: StudySummary) -> str:
    """Return how many trials have reached which epoch, such as "epoch 1: 27, epoch 3: 9".

    The epochs are those at which trials have ended or paused; of many the first, the last and some between.
    """
    reached = sorted(trial.epochs for trial in study.trials)
    marks = sorted({trial.epochs for trial in study.trials if trial.epochs and trial.status != "RUNNING"})
    if len(marks) > _MARKS:
        marks = [marks[at * (len(marks) - 1) // (_MARKS - 1)] for at in range(_MARKS)]
    return ", ".join(f"epoch {epoch}: {len(reached) - bisect_left(reached, epoch)}" for epoch in marks)


def spent(study: StudySummary) -> str:
    """Return what the study has used, and its limits."""
    limits = study.budget
    parts = [_of("epochs", study.epochs, limits.get("epochs"), "{:.0f}"), duration(study.seconds)]
    if "hours" in limits:
        parts[-1] += f" of {limits['hours']:g}h"
    if study.gpu_hours or "gpu_hours" in limits:
        parts.append(_of("GPU-hours", study.gpu_hours, limits.get("gpu_hours"), "{:.3f}"))
    if "price_per_gpu_hour" in limits:
        cost = study.gpu_hours * limits["price_per_gpu_hour"]
        parts.append(_of("cost", cost, limits.get("cost"), "{:.2f}"))
    return ", ".join(parts)


def saved(study: StudySummary) -> str:
    """Return what stopping early saved against training every trial to the end."""
    full = study.full_epochs
    if not full or not study.epochs:
        return "nothing was trained"
    if study.epochs > full:
        return (
            f"nothing: {study.epochs} epochs, and {full} for full training of every trial; trials that have "
            "no checkpoints are trained again when they go on"
        )
    share = 1 - study.epochs / full
    return f"{study.epochs} epochs instead of {full} for full training of every trial: {share:.0%} saved"


def configuration(params: dict[str, Any]) -> str:
    """Return a configuration on one line; long texts are cut."""
    return " ".join(
        f"{plain(name)}={value:.4g}" if isinstance(value, float) else f"{plain(name)}={brief(str(value))}"
        for name, value in params.items()
    )


def best_line(study: StudySummary) -> str:
    """Return the best value so far and where it came from."""
    ranked = study.ranked()
    if not ranked:
        return "none yet"
    best = ranked[0]
    return f"{best.best:.6g} (trial {best.trial_id}, epoch {best.best_epoch})"


def where_to_look(study: StudySummary) -> str:
    """Return how to open the study in the MLflow UI."""
    uri = public_uri(study.tracking_uri)
    # without the type of workflow MLflow opens in its layout for language models
    page = f"#/experiments/{study.experiment_id}/runs/{study.run_id}?workflowType=machine_learning"
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {uri}   then http://127.0.0.1:5000/{page}"


def opening_of_end(study: StudySummary) -> list[str]:
    """Return the lines that tell how a study ended."""
    lines = [f"study {brief(study.name)} ({study.run_id}) {study.status}: {states(study)}; {spent(study)}"]
    return [*lines, f"ended because: {brief(study.reason, 1_000)}"] if study.reason else lines


def best_rows(study: StudySummary, top: int = 5) -> list[tuple[str, str, str, str, str]]:
    """Return value, trial, epoch, state and configuration of the best trials."""
    return [
        (
            f"{trial.best:.6g}",
            f"trial {trial.trial_id}",
            f"epoch {trial.best_epoch}",
            STATES[trial.status],
            configuration(trial.params),
        )
        for trial in study.ranked()[:top]
    ]


def closing_of_end(study: StudySummary) -> list[str]:
    """Return the lines that tell what stopping early saved, and where to look."""
    return [f"saved: {saved(study)}", f"look:  {where_to_look(study)}"]


def ending(study: StudySummary, top: int = 5) -> list[str]:
    """Return the lines that end a study: state, best trials, savings, where to look."""
    rows = best_rows(study, top)
    lines = opening_of_end(study)
    if rows:
        lines.append(f"best {len(rows)} by {brief(study.metric)} ({study.mode}):")
        lines += [f"  {a:<9} {b:<11} {c:<10} {d:<13}  {e}" for a, b, c, d, e in rows]
    return lines + closing_of_end(study)


def _of(name: str, used: float, limit: float | None, form: str) -> str:
    text = form.format(used)
    return f"{text} of {form.format(limit)} {name}" if limit is not None else f"{text} {name}"
