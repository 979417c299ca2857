"""Why trials failed: those that failed alike are told of once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlflow_hpo.tracking.details import TrialDetails

_SHOWN = 50  # trials that a group names
_NUMBER = re.compile(r"0x[0-9a-f]+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failures:
    """Trials that failed for the same reason but for its numbers: the first one's reason and traceback."""

    reason: str
    traceback: str
    trials: tuple[int, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "reason": self.reason,
            "traceback": self.traceback,
            "count": len(self.trials),
            "trials": self.trials[:_SHOWN],
        }


def grouped(trials: Iterable[TrialDetails]) -> list[Failures]:
    """Return the failures, the most frequent first."""
    alike: dict[str, list[TrialDetails]] = {}
    for trial in trials:
        if trial.summary.status == "FAILED":
            alike.setdefault(_NUMBER.sub("#", trial.summary.reason), []).append(trial)
    groups = [
        Failures(
            group[0].summary.reason,
            next((each.traceback for each in group if each.traceback), ""),
            tuple(each.summary.trial_id for each in group),
        )
        for group in alike.values()
    ]
    return sorted(groups, key=lambda group: -len(group.trials))
