"""A warm start in words: what would be tried first, and what is known of which tasks."""

from __future__ import annotations

from mlflow_hpo.metalearning.history import counted
from mlflow_hpo.metalearning.rung_advice import RungAdvice
from mlflow_hpo.metalearning.warm_start import WarmStart
from mlflow_hpo.reports.text import configuration


def suggestions(warm_start: WarmStart, top: int) -> list[str]:
    """Return the configurations that a study would begin with, and where each comes from."""
    lines = [str(warm_start)]
    for place, entry in enumerate(warm_start.entries[:top], 1):
        lines += [
            f"{place}. {configuration(entry.config)}",
            f"   among the best {max(entry.expected, 0.01):.0%} of what was tried; from {entry.task}"
            + (f", run {entry.run_id}" if entry.run_id else ""),
        ]
    return lines if warm_start.rungs is None else [*lines, _rungs(warm_start.rungs)]


def _rungs(advice: RungAdvice) -> str:
    known = f"{counted(advice.trials, 'whole trial')} on {counted(advice.tasks, 'task')}"
    return (
        f"rungs: min_resource {advice.min_resource} and eta {advice.eta} would have found what is among the "
        f"best {max(advice.better, 0.01):.0%} with {advice.epochs:.0%} of the epochs ({known}; ranks at the "
        f"first rung and at the end correlate by {advice.correlation:.2f})"
    )


def tasks(warm_start: WarmStart) -> list[str]:
    """Return the tasks of the history, the one that counts most first, and what was left out."""
    history = warm_start.history
    weights = {} if warm_start.portfolio is None else warm_start.portfolio.weights
    lines = [str(warm_start)]
    for task in sorted(history.tasks, key=lambda task: -weights.get(task.name, 0.0)):
        features = ", ".join(f"{name} {value:g}" for name, value in sorted(task.features.items()))
        lines.append(
            f"{weights.get(task.name, 0.0):>4.0%}  {len(task.trials):>5} trials  {task.name}"
            + (f"  ({features})" if features else "")
        )
    return lines
