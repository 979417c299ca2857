"""Schedules of the learning rate."""

from __future__ import annotations

import math


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Return what the peak learning rate is multiplied by.

    Args:
        schedule: "constant"; "cosine", from 1 to 0.01; or "onecycle", from 0.04 to 1 at 30 % and on to 0.001
            (Smith and Topin, 2018, https://arxiv.org/abs/1708.07120).
        progress: share of the horizon that is behind us; above 1 counts as 1.

    >>> [round(learning_rate_factor("onecycle", at), 3) for at in (0, 0.3, 1)]
    [0.04, 1.0, 0.001]
    """
    progress = min(progress, 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _cosine(1.0, 0.01, progress)
    if progress < 0.3:
        return _cosine(0.04, 1.0, progress / 0.3)
    return _cosine(1.0, 0.001, (progress - 0.3) / 0.7)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Return how many batches an epoch is divided into; they are of equal size as far as possible.

    >>> steps_in_epoch(1437, 64), steps_in_epoch(17, 2)
    (23, 8)
    """
    steps = math.ceil(rows / batch_size)
    # batch normalisation cannot train on a single row
    return steps - 1 if steps > 1 and rows // steps < 2 else steps
