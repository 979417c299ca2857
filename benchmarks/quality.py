"""From traces to figures: mean regret, average rank, speed-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from lcbench import Task
from reference import Reference
from scipy.stats import rankdata
from simulator import Trace

NOTHING_FOUND = 2.0  # regret before the first epoch ends, with many workers at the smallest budgets


@dataclass(frozen=True)
class Quality:
    """How good a method is.

    Attributes:
        regret, error: at each budget, the mean over tasks of the mean over seeds, and its standard error
            over tasks.
        rank: at each budget, the average over tasks and seeds of the rank among all methods; 1 is best.
        speed_up: median over tasks; None if the method doesn't get to the target on half of the tasks.
    """

    regret: list[float]
    error: list[float]
    rank: list[float]
    speed_up: float | None


Runs = Mapping[Task, Sequence[Trace]]  # the traces of a method, by task and in the order of the seeds


def assess(
    runs: Mapping[str, Runs], references: Mapping[Task, Reference], budgets: Sequence[int], baseline: str
) -> dict[str, Quality]:
    """Return the quality of each method.

    Args:
        runs: by method.
        budgets: in epochs, ascending; the speed-up is about the last one.
        baseline: the method that the speed-up refers to.
    """
    regrets = {name: _regrets(by_task, references, budgets) for name, by_task in runs.items()}
    ranks = rankdata(np.stack(list(regrets.values())), axis=0).mean(axis=(1, 2))
    return {
        name: Quality(
            regret=regret.mean(axis=(0, 1)).tolist(),
            error=(
                regret.mean(axis=1).std(axis=0, ddof=min(1, len(regret) - 1)) / len(regret) ** 0.5
            ).tolist(),
            rank=rank.tolist(),
            speed_up=_speed_up(runs[name], runs[baseline], references, budgets[-1]),
        )
        for (name, regret), rank in zip(regrets.items(), ranks, strict=True)
    }


def _regret(trace: Trace, reference: Reference, epochs: int) -> float:
    value = trace.value(epochs)
    return NOTHING_FOUND if value is None else reference.regret(value)


def _regrets(runs: Runs, references: Mapping[Task, Reference], budgets: Sequence[int]) -> np.ndarray:
    """Return the regrets, [tasks, seeds, budgets]."""
    return np.array(
        [
            [[_regret(trace, references[task], epochs) for epochs in budgets] for trace in traces]
            for task, traces in runs.items()
        ]
    )


def _speed_up(runs: Runs, baseline: Runs, references: Mapping[Task, Reference], epochs: int) -> float | None:
    """Return the median over tasks of the epochs of the baseline over those of the method.

    A task's target is the baseline's regret after `epochs` epochs, the mean over seeds; what counts is when
    the mean over seeds of the one and of the other gets there.
    """
    ratios = []
    for task, traces in runs.items():
        target = _curve(baseline[task], references[task], epochs)
        curve = _curve(traces, references[task], epochs)
        reached = curve <= target[-1]
        ratios.append(
            (1 + np.argmax(target <= target[-1])) / (1 + np.argmax(reached)) if reached.any() else 0.0
        )
    median = float(np.median(ratios))
    return median or None


def _curve(traces: Sequence[Trace], reference: Reference, epochs: int) -> np.ndarray:
    """Return the mean regret after each of 1 .. `epochs` epochs."""
    curves = np.full((len(traces), epochs), NOTHING_FOUND)
    for curve, trace in zip(curves, traces, strict=True):
        for at, _, value in trace.steps:
            curve[at - 1 :] = reference.regret(value)
    return curves.mean(axis=0)
