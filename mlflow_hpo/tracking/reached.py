"""How far a trial has come, as its run alone tells it."""

from __future__ import annotations

from typing import NamedTuple

from mlflow.entities import Run

from mlflow_hpo.tracking.summary import best_metric


class Reached(NamedTuple):
    """The last epoch of a trial, and that of its best value; 0 before the first."""

    epochs: int
    best_epoch: int


def reached(run: Run, metric: str) -> Reached:
    """Return how far a trial has come.

    Tags tell it from the end of a job on. Before, or if its driver was killed, the steps of its metrics do;
    but those of `metric`, the optimised one, are no epochs where a script has logged it.
    """
    tags = run.data.tags
    epochs, best_epoch = int(tags.get("hpo.epochs", 0)), int(tags.get("hpo.best_epoch", 0))
    if is_settled(run):
        return Reached(epochs, best_epoch)
    steps = last_steps(run)
    best_epoch = steps.get(best_metric(metric), 0)
    return Reached(max(epochs, best_epoch, steps.get(metric, 0)), best_epoch)


def is_settled(run: Run) -> bool:
    """Whether the tags of a trial's run tell how far it has come: they are written when a job ends."""
    return run.info.status != "RUNNING" and "hpo.epochs" in run.data.tags


def last_steps(run: Run) -> dict[str, int]:
    """Return the step of the last value of each metric."""
    # run.data.metrics knows no steps, and a history is a request
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}
