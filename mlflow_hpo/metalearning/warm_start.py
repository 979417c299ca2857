"""Warm start: the history that a study begins with, and what it says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.history import History, counted
from mlflow_hpo.metalearning.kept import KEPT, digest, kept
from mlflow_hpo.metalearning.mining import RUNS, mine
from mlflow_hpo.metalearning.portfolio import Entry, Portfolio, config_key
from mlflow_hpo.metalearning.rules import Rules
from mlflow_hpo.metalearning.rung_advice import RungAdvice, rung_advice
from mlflow_hpo.space import SearchSpace

RECORD = "warm_start.json"  # artifact of the parent run
_SHOWN = 10  # configurations that the record of a warm start holds


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What a study begins with.

    Attributes:
        history: what is known of earlier tasks.
        portfolio: what was good there; None where nothing is known.
        features: of the new task, by name.
        sources: where the history was asked for; None for all experiments.
        rungs: where to compare trials, by what is known; None where that says nothing.
    """

    history: History
    portfolio: Portfolio | None
    features: Mapping[str, float]
    sources: tuple[str, ...] | None
    rungs: RungAdvice | None = None

    @classmethod
    def mined(
        cls,
        sources: Sequence[str],
        *,
        metric: str,
        mode: str,
        space: SearchSpace,
        max_resource: int,
        facts: Mapping[str, str],
        rules: Rules,
        own: str = "",
    ) -> WarmStart:
        """Mine MLflow.

        Args:
            sources: experiments, studies and plain runs, as `History.from_mlflow` takes them; with "auto"
                among them all.
            metric, mode, space, max_resource: of the new study.
            facts: what the training says of its data.
            rules: how earlier runs are read.
            own: run id of the study if it has one; it is none of its own sources.

        Raises:
            ConfigError: there is no such experiment, study or plain run.
            StudyError: the store cannot be used.
        """
        chosen = None if "auto" in sources else tuple(sources)
        history = mine(chosen, metric=metric, mode=mode, space=space, rules=rules, own=own)
        return cls.of(history, chosen, space=space, max_resource=max_resource, facts=facts)

    @classmethod
    def of(
        cls,
        history: History,
        sources: tuple[str, ...] | None,
        *,
        space: SearchSpace,
        max_resource: int,
        facts: Mapping[str, str],
    ) -> WarmStart:
        """Return what a history, asked for in `sources`, says to a study; the others are as in `mined`."""
        features = task_features(facts)
        if not history:
            return cls(history, None, features, sources)
        portfolio = Portfolio(history, space, features)
        advice = rung_advice(history, portfolio.weights, max_resource)
        return cls(history, portfolio, features, sources, advice)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What was good on earlier tasks, the first to be tried first."""
        return () if self.portfolio is None else self.portfolio.entries

    @property
    def studies(self) -> tuple[str, ...]:
        """The studies and plain runs that the history comes from; as sources they bring the same again."""
        return tuple(f"{RUNS}{run_id}" for run_id in (*self.history.studies, *self.history.runs))

    def origins(self) -> dict[Any, str]:
        """Return task and run id of each of the entries, by `config_key`."""
        return {config_key(entry.config): f"{entry.task} {entry.run_id}".strip() for entry in self.entries}

    def __str__(self) -> str:
        where = "all experiments" if self.sources is None else _listed(self.sources)
        left_out = f"; left out: {self.history.left_out}" if self.history.skipped else ""
        if not self.history:
            return f"no history of this metric and space in {where}, the search starts cold{left_out}"
        return (
            f"{counted(self.history.trials, 'trial')} on {counted(len(self.history.tasks), 'task')} "
            f"in {where} say what to try{left_out}"
        )

    def artifacts(self) -> dict[str, str | bytes]:
        """Return what the parent run keeps of it: `to_json`, and the history for when the study goes on."""
        found: dict[str, str | bytes] = {RECORD: self.to_json()}
        if (content := kept(self.history, self.sources)) is not None:
            found[KEPT] = content
        return found

    def to_json(self) -> str:
        """Return it as the record of a study: what was known, and what is to be tried first, and why."""
        weights = {} if self.portfolio is None else self.portfolio.weights
        return json.dumps(
            {
                "sources": "auto" if self.sources is None else list(self.sources),
                "studies": list(self.history.studies),
                "runs": list(self.history.runs),
                "sha256": digest(self.history),
                "features": dict(self.features),
                "rungs": None if self.rungs is None else asdict(self.rungs),
                "configurations": [_plain(entry) for entry in self.entries[:_SHOWN]],
                "tasks": [
                    {
                        "task": task.name,
                        "weight": round(weights.get(task.name, 0.0), 4),
                        "features": dict(task.features),
                        "trials": len(task.trials),
                    }
                    for task in self.history.tasks
                ],
                "left_out": self.history.skipped,
            },
            indent=2,
        )


def _listed(sources: Sequence[str]) -> str:
    """Return the sources in words; single studies and plain runs are counted only."""
    single = sum(source.startswith(RUNS) for source in sources)
    experiments = [source for source in sources if not source.startswith(RUNS)]
    return ", ".join([*experiments, *([counted(single, "named run")] if single else [])])


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "config": entry.config,
        "task": entry.task,
        "run_id": entry.run_id,
        "expected": round(entry.expected, 4),
    }
