"""Training that returns before its job's last epoch: what it has done wrong, in words."""

from __future__ import annotations


def returned_early(metric: str, reported: int, stop: int) -> str:
    """Return why a job has failed whose training returned by itself too early.

    Args:
        metric: name of the one that is optimised, "" where that is not known.
        reported: the last epoch that it has reported, 0 for none.
        stop: the last epoch of the job.

    >>> returned_early("loss", 1, 9)
    'the training returned after reporting epoch 1 of 9'
    >>> returned_early("loss", 0, 9).partition("; ")[0]
    'the training returned without calling trial.report(epoch, loss=...)'
    >>> returned_early("val/loss", 0, 9).partition("; ")[0]
    "the training returned without calling trial.report(epoch, **{'val/loss': ...})"
    """
    if reported:
        return f"the training returned after reporting epoch {reported} of {stop}"
    values = "..."
    if metric:
        values = f"{metric}=..." if metric.isidentifier() else f"**{{{metric!r}: ...}}"
    return (
        f"the training returned without calling trial.report(epoch, {values}); "
        "values logged by mlflow.log_metric do not count"
    )
