"""Trainings that every tool of a comparison runs: functions of a configuration and of where to report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.trial import Trial

# a configuration: floats, drawn on a logarithmic scale
SPACE = {"learning_rate": (1e-4, 1e-1), "weight_decay": (1e-6, 1e-2), "dropout": (1e-2, 0.5)}
DIGITS_EPOCHS = 9

Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Workload:
    """A training.

    Attributes:
        run: takes a configuration, and a function that takes an epoch and its metrics.
        metric: the one that is minimised.
        reports: how many times it reports.
    """

    run: Callable[[Mapping[str, float], Report], None]
    metric: str
    reports: int


def noop(reports: int) -> Workload:
    """Return a training that does nothing but report."""
    return Workload(functools.partial(_report_only, reports), "loss", reports)


def digits() -> Workload:
    """Return the bundled training's MLP on scikit-learn's digits, on one thread, without checkpoints."""
    return Workload(_train_digits, "val_loss", DIGITS_EPOCHS)


def _report_only(reports: int, params: Mapping[str, float], report: Report) -> None:
    for epoch in range(1, reports + 1):
        report(epoch, {"loss": params["dropout"] + 1 / epoch})


class _Channel:
    """The way of a trial that belongs to another tool."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self._report(epoch, metrics)
        return True

    def save(self, epoch: int, path: Path) -> None: ...

    def load(self) -> tuple[int, Path] | None:
        return None


_DIGITS = BundledTraining("digits", max_epochs=DIGITS_EPOCHS)


def _train_digits(params: Mapping[str, Any], report: Report) -> None:
    import torch

    torch.set_num_threads(1)
    _DIGITS(Trial(params, stop=DIGITS_EPOCHS, seed=0, device="cpu", channel=_Channel(report)))
