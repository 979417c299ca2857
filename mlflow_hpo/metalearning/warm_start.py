"""Warm start: what a new study tries first, and what it says of where that comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.history import History, counted
from mlflow_hpo.metalearning.portfolio import Entry, Portfolio, choose_portfolio
from mlflow_hpo.space import Config, SearchSpace

_MOST_POINTS = 10
_SHARE = 4  # at most one in so many trials is a warm start


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The configurations that a study begins with, and the history that they come from."""

    history: History
    portfolio: Portfolio
    experiments: tuple[str, ...] | None

    @classmethod
    def mined(
        cls,
        experiments: Sequence[str],
        *,
        metric: str,
        mode: str,
        space: SearchSpace,
        facts: Mapping[str, str],
        trials: int,
        points: Sequence[Config],
    ) -> WarmStart:
        """Mine MLflow and choose.

        Args:
            experiments: their names; only "auto" for all.
            metric, mode, space, trials, points: of the new study. Of its trials at most 10 and one in four,
                but one at least, come from the history, and none where `points` are enough for all.
            facts: what the training says of its data.

        Raises:
            ConfigError: there is no such experiment.
            StudyError: the store cannot be used.
        """
        chosen = None if tuple(experiments) == ("auto",) else tuple(experiments)
        history = History.from_mlflow(chosen, metric=metric, mode=mode, space=space)
        size = min(_MOST_POINTS, max(1, trials // _SHARE), trials - len(points))
        portfolio = choose_portfolio(history, space, size, task_features(facts), points)
        return cls(history, portfolio, chosen)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The configurations, the first one first."""
        return self.portfolio.entries

    def __str__(self) -> str:
        where = "all experiments" if self.experiments is None else ", ".join(self.experiments)
        left_out = f"; left out: {self.history.left_out}" if self.history.skipped else ""
        if self.history and not self.entries:
            return f"nothing in {where} that is not among the points already{left_out}"
        if not self.entries:
            return f"no history of this metric and space in {where}, the search starts cold{left_out}"
        return (
            f"{counted(len(self.entries), 'configuration')}, chosen from "
            f"{counted(self.history.trials, 'trial')} on {counted(len(self.history.tasks), 'task')} "
            f"in {where}{left_out}"
        )

    def to_json(self) -> str:
        """Return it as the artifact of a study: what was chosen, why, and from what."""
        return json.dumps(
            {
                "experiments": "auto" if self.experiments is None else list(self.experiments),
                "configurations": [_plain(entry) for entry in self.entries],
                "tasks": [
                    {
                        "task": task.name,
                        "weight": round((self.portfolio.weights or {}).get(task.name, 0.0), 4),
                        "features": dict(task.features),
                        "trials": len(task.trials),
                    }
                    for task in self.history.tasks
                ],
                "left_out": self.history.skipped,
            },
            indent=2,
        )


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "config": entry.config,
        "task": entry.task,
        "run_id": entry.run_id,
        "expected": round(entry.expected, 4),
    }
