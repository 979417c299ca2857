"""Recording: what MLflow holds of a study, as plain data; a resumed study is gone through again by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BROKEN_OFF = "the study ended: "
"""Begins the reason of a trial that ended because its study broke off."""


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics that a trial reported after `epoch` epochs, at `time` (seconds since 1970)."""

    epoch: int
    metrics: Mapping[str, float]
    time: float


@dataclass(slots=True)
class RecordedTrial:
    """One trial as its run tells it.

    Attributes:
        run_id, location: its run, and the root of its artifacts.
        texts: its params as they are written; none if its driver was killed just after making the run.
        status, reason: MLflow's word for what it is doing, and why it ended.
        rung: of its last job.
        seconds: of the jobs whose end is recorded.
        samples: how many samples of system metrics it has.
        tags: those of this package.
        reports: what it reported, by ascending epoch: the metric that is optimised, and those with
            constraints.
        points: (metric, step) of all that is written, where the run may hold more, or less, than `reports`.
        checkpoints: epoch -> name of those in the store.
    """

    trial_id: int
    run_id: str
    location: str
    texts: dict[str, str]
    status: str
    reason: str = ""
    rung: int = 0
    seconds: float = 0.0
    samples: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    points: frozenset[tuple[str, int]] = frozenset()
    checkpoints: dict[int, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it failed by itself, not because its study broke off."""
        return self.status == "FAILED" and self.reason != "" and not self.reason.startswith(BROKEN_OFF)

    @property
    def reached(self) -> int:
        """The furthest epoch that it reported."""
        return self.reports[-1].epoch if self.reports else 0

    def holds(self, metric: str, step: int) -> bool:
        """Whether a value is written already."""
        return (metric, step) in self.points if self.points else step <= self.reached


@dataclass(slots=True)
class Recording:
    """A study as its runs tell it.

    Attributes:
        run_id: the parent run; `run_name`, `experiment_id` and `artifact_uri` are its own.
        tags, params: of the parent run.
        keys: its search.yaml, as it was last resumed.
        trials: by trial id.
        steps: of its progress metrics that are written.
        epochs, seconds, gpu_hours: spent.
    """

    run_id: str
    run_name: str
    experiment_id: str
    artifact_uri: str
    tags: dict[str, str]
    params: dict[str, str]
    keys: dict[str, Any]
    trials: dict[int, RecordedTrial]
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    gpu_hours: float = 0.0
