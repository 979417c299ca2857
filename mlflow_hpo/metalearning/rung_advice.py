"""Rung advice: where to compare trials, by what successive halving would have found on earlier tasks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mlflow_hpo.metalearning.history import Curve, History, PastTask
from mlflow_hpo.schedulers.rungs import promotions, rung_levels
from mlflow_hpo.searchers.encoding import Array
from mlflow_hpo.searchers.rank_correlation import rank_correlations

_ENOUGH = 10  # trials of a task that were trained to its end
_FACTORS = (2, 3, 4)
_GOOD = 0.02  # share of a task's trials that may end better than what is found


@dataclass(frozen=True, slots=True)
class RungAdvice:
    """Rungs, and how successive halving with them would have done on earlier tasks.

    Attributes:
        min_resource: epochs of the first rung.
        eta: reduction factor.
        epochs: share of the epochs of full trainings that it would have taken.
        better: share of a task's trials that end better than the one it would have found.
        correlation: Spearman's, of the losses at the first rung with those at the end.
        tasks, trials: how many it is told by. What stands above is the mean over tasks by their weights.
    """

    min_resource: int
    eta: int
    epochs: float
    better: float
    correlation: float
    tasks: int
    trials: int


def rung_advice(history: History, weights: Mapping[str, float], max_resource: int) -> RungAdvice | None:
    """Return the cheapest rungs that would have found what is good on earlier tasks.

    On each task the trials count that were trained as far as the longest one, from 10 of them on: what a
    scheduler had stopped does not say how it would have ended. Tasks are left out of which nothing is known
    before half of a training. A rung lies as far along their curves as it would along the new ones. Good is
    what at most 2 % of a task's trials end better than; where no rungs find that, those are returned that
    come closest. Of what costs the same the first rung that lies higher.

    Args:
        history: what was tried.
        weights: of the tasks, by name; 0 for those that are left out.
        max_resource: epochs of a full training of the new task.

    Returns:
        The advice; None where no task has enough such trials, or there is nothing to compare before the end.

    Source: successive halving as in Jamieson & Talwalkar, Non-stochastic Best Arm Identification, AISTATS
    2016.

    >>> records = [
    ...     {"task": "digits", "config": {"x": x / 20}, "curve": [[e, x + 20 / e] for e in (1, 3, 9)]}
    ...     for x in range(20)
    ... ]
    >>> advice = rung_advice(History.from_records(records, mode="min"), {"digits": 1.0}, 27)
    >>> advice.min_resource, advice.eta, advice.better
    (3, 3, 0.0)
    """
    known = [
        (weights[task.name], curves)
        for task in history.tasks
        if weights.get(task.name, 0.0) > 0
        and len(curves := _whole(task)) >= _ENOUGH
        and all(curve[0][0] <= curve[-1][0] / 2 for curve in curves)
    ]
    trials = sum(len(curves) for _, curves in known)
    importance = np.array([weight for weight, _ in known])
    found = []
    for min_resource, eta in _rungs(max_resource):
        levels = np.array(rung_levels(min_resource, max_resource, eta)) / max_resource
        if any(curve[0][0] > levels[0] * curve[-1][0] for _, curves in known for curve in curves):
            continue  # that early nothing is known
        outcomes = [_halved(_losses(curves, history.mode, levels), levels, eta) for _, curves in known]
        if outcomes:
            epochs, better, correlation = np.average(outcomes, axis=0, weights=importance).tolist()
            found.append(RungAdvice(min_resource, eta, epochs, better, correlation, len(known), trials))
    return min(found, key=_cost, default=None)


def _cost(advice: RungAdvice) -> tuple[float, float, int]:
    return max(advice.better, _GOOD), advice.epochs, -advice.min_resource


def _rungs(max_resource: int) -> Iterator[tuple[int, int]]:
    """Yield first rungs and factors: whole steps down from a full training."""
    for eta in _FACTORS:
        min_resource = max_resource / eta
        while round(min_resource) >= 1:
            yield round(min_resource), eta
            min_resource /= eta


def _whole(task: PastTask) -> list[Curve]:
    """Return the curves of trials that were trained as far as the longest one."""
    end = max((trial.curve[-1][0] for trial in task.trials if trial.curve), default=0)
    return [
        trial.curve for trial in task.trials if trial.curve and trial.curve[-1][0] == end and not trial.failed
    ]


def _losses(curves: list[Curve], mode: str, levels: Array) -> Array:
    """Return the losses (trials x levels) after these shares of a full training."""
    sign = -1.0 if mode == "max" else 1.0
    return np.array(
        [
            [
                sign * curve[bisect_right(curve, level * curve[-1][0] + 1e-9, key=lambda at: at[0]) - 1][1]
                for level in levels
            ]
            for curve in curves
        ]
    )


def _halved(losses: Array, levels: Array, eta: int) -> tuple[float, float, float]:
    """Return what successive halving takes and finds: epochs, better and correlation, as in the advice."""
    count = len(losses)
    left = np.arange(count)
    epochs = count * levels[0]
    for rung in range(len(levels) - 1):
        order = np.argsort(losses[left, rung], kind="stable")
        left = left[order[: max(1, promotions(len(left), eta))]]
        epochs += len(left) * (levels[rung + 1] - levels[rung])
    found = losses[left, -1].min()
    [correlation] = rank_correlations(losses[:, 0], losses[:, -1:])
    return epochs / count, float(np.mean(losses[:, -1] < found)), float(correlation)
