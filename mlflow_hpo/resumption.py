"""Resumption: what a study that goes on takes over from its record, and what may be other than before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlflow_hpo.config import StudyConfig
from mlflow_hpo.constraints import violations
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.recording import RecordedTrial, Recording

FIXED = ("metric", "space", "constraints", "data", "target", "experiment")
"""Keys that a resumed study must have as they were: its trials would mean something else."""

OF_SEARCH = (
    *("searcher", "scheduler", "min_resource", "max_resource", "seed", "points", "early_stopping"),
    "warm_start",
)
"""Keys of the search. With another one of them the trials so far are over, and teach the new search."""


def resumed_keys(recording: Recording, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a study that goes on: as recorded, but where the user says otherwise."""
    given = dict(given)
    if recording.keys.get("warm_start"):
        given.pop("warm_start", None)  # what it began with stays
    return {**recording.keys, **given}


def changes(before: StudyConfig, now: StudyConfig) -> dict[str, tuple[Any, Any]]:
    """Return what is other than it was: key -> (before, now).

    Raises:
        ConfigError: one of `FIXED` is among it.
    """
    old, new = before.to_dict(), now.to_dict()
    found = {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    }
    if "space" in found:
        raise ConfigError(
            "space",
            "must be that of the study which is resumed; "
            + "; ".join(_differences(old["space"], new["space"]))
            + " (a new study can begin with what this one taught: warm_start: runs:/<its run id>)",
        )
    for key in FIXED:
        if key in found:
            was, is_now = found[key]
            raise ConfigError(
                key, f"must be as in the study which is resumed, {was!r:.200}, got {is_now!r:.200}"
            )
    return found


def check_task(recording: Recording, task: str) -> None:
    """Raise ConfigError where a study would go on with other data."""
    before = recording.tags.get("hpo.task", "")
    if before != task:
        raise ConfigError("resume", f"the study is about {before!r:.100}, got {task!r:.100}")


def is_other_search(found: Mapping[str, Any]) -> bool:
    """Whether these changes make another search."""
    return not found.keys().isdisjoint(OF_SEARCH)


def remember(optimizer: Optimizer, trials: list[RecordedTrial], config: StudyConfig) -> None:
    """Let a new search learn from trials of the one before; they are over."""
    for trial in trials:
        if trial.trial_id != len(optimizer.trials):
            raise ConfigError("resume", f"trial {len(optimizer.trials)} of the study has no run")
        curve = [(report.epoch, report.metrics[config.metric.name]) for report in trial.reports]
        if config.constraints:
            feasible = _feasible(trial, config)
            curve = [
                (epoch, value if kept else math.nan)
                for (epoch, value), kept in zip(curve, feasible, strict=True)
            ]
        reason = trial.reason if trial.failed else None
        optimizer.remember(config.space.parse(trial.texts), curve, reason)


def _feasible(trial: RecordedTrial, config: StudyConfig) -> list[bool]:
    last: dict[str, float] = {}
    kept = []
    for report in trial.reports:
        last.update(report.metrics)
        kept.append(violations(config.constraints, last) == "")
    return kept


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words how two spaces differ."""
    names = dict.fromkeys([*before, *now])
    words = []
    for name in names:
        if name not in now:
            words.append(f"{name} is missing")
        elif name not in before:
            words.append(f"{name} is new")
        elif before[name] != now[name]:
            words.append(f"{name} was {before[name]}, got {now[name]}")
    return words or ["the parameters are in another order"]
