"""Feasibility: which trials of a running study keep its constraints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlflow_hpo.constraints import Constraint, violations


class Feasibility:
    """Judges the trials of a study by what they report.

    A metric that a report does not hold keeps the trial's last value: it is enough to report a size or a
    latency once. Until a trial has reported a metric for the first time, it breaks the bound on it: nothing
    that may turn out to be infeasible is ever the best.

    Args:
        constraints: of the study.

    >>> feasibility = Feasibility([Constraint.parse("latency_ms <= 20")])
    >>> feasibility.judge(0, {"loss": 0.5})
    'latency_ms is not reported, must be <= 20'
    >>> feasibility.judge(0, {"loss": 0.4, "latency_ms": 12.5}), feasibility.judge(0, {"loss": 0.3})
    ('', '')
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self._constraints = constraints
        self._last: dict[int, dict[str, float]] = {}  # trial -> last value of each metric
        self._told: set[str] = set()  # metrics whose absence was told

    def judge(self, trial_id: int, metrics: Mapping[str, float]) -> str:
        """Take what a trial reports; return in words which constraints it breaks now, "" if none."""
        if not self._constraints:
            return ""
        last = self._last.setdefault(trial_id, {})
        last.update(metrics)
        return violations(self._constraints, last)

    def absent(self, trial_id: int) -> str:
        """Return in words which metrics with a constraint the trial has never reported; "" if none."""
        last = self._last.get(trial_id, {})
        absent = self._absent(trial_id)
        if not absent:
            return ""
        names, reported = ", ".join(map(repr, absent)), ", ".join(sorted(last)) or "nothing"
        return f"constraints: the training reported no {names}, only {reported}"

    def newly_absent(self, trial_id: int) -> str:
        """Return what `absent` does if it names a metric for the first time in this study, else ""."""
        absent = self._absent(trial_id)
        if self._told.issuperset(absent):
            return ""
        self._told.update(absent)
        return self.absent(trial_id)

    def broken_by(self, trial_ids: Iterable[int]) -> str:
        """Return how many of some trials break which constraint, such as "9 break latency_ms <= 20"."""
        values = [self._last.get(trial_id, {}) for trial_id in trial_ids]
        counts = [
            (sum(violations([constraint], each) != "" for each in values), constraint)
            for constraint in self._constraints
        ]
        return ", ".join(f"{count} break {constraint}" for count, constraint in counts if count)

    def _absent(self, trial_id: int) -> list[str]:
        last = self._last.get(trial_id, {})
        metrics = dict.fromkeys(constraint.metric for constraint in self._constraints)
        return [metric for metric in metrics if metric not in last]
