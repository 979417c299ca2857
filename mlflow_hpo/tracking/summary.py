"""A study and its trials as plain data: what a driver knows, and what is read back from MLflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = "1"  # version of the layout in MLflow, tag `hpo.schema`
CHANGED = "hpo.changed"  # tag of the parent run: settings that are other since it was resumed, as JSON
MODEL = "hpo.model"  # tag of the parent run: whose model is logged, see `whose_model`
SYSTEM = "system/"  # begins the names of the machine's metrics, as MLflow has them,
BEST = "best_"  # and of the best values so far
OURS = (SYSTEM, BEST)  # what no training reports, and we log


def whose_model(trial_id: int, epoch: int) -> str:
    """Return what tag `MODEL` says of the model of a trial's epoch."""
    return f"trial {trial_id} at epoch {epoch}"


def best_metric(metric: str) -> str:
    """Return the name under which the best value so far is logged, on the trial and on the parent run."""
    return f"{BEST}{metric}"


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """One trial. `status` is MLflow's: RUNNING, SCHEDULED (paused), FINISHED, KILLED (stopped early) or
    FAILED.

    `epochs` is how far it was trained, `value` the metric there, `best` the best feasible value it reported,
    at `best_epoch`. `infeasible` says which constraints it breaks there, "" if none.
    """

    trial_id: int
    run_id: str
    status: str
    params: dict[str, Any]
    bracket: int = 0
    rung: int = 0
    epochs: int = 0
    value: float | None = None
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    reason: str = ""
    infeasible: str = ""

    def row(self, *, value: str = "value", best: str = "best") -> dict[str, Any]:
        """Return all but the parameters, as a row of a table whose columns of values have these names."""
        return {
            "trial": self.trial_id,
            "run_id": self.run_id,
            "status": self.status,
            "bracket": self.bracket,
            "rung": self.rung,
            "epochs": self.epochs,
            value: self.value,
            best: self.best,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "reason": self.reason,
            "infeasible": self.infeasible,
        }


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study at one moment.

    `epochs` and `gpu_hours` were spent so far; `full_epochs` is what full training of every trial would
    take; `budget` holds the limits that were set, `best_trial` is the first to have reached the best value,
    `eta` the seconds that are still to go, where known, and `model` tells whose model is logged, as
    `whose_model` says it.
    """

    run_id: str
    name: str
    experiment_id: str
    tracking_uri: str
    status: str
    metric: str
    mode: str
    searcher: str
    scheduler: str
    trials_planned: int
    max_resource: int
    seconds: float
    epochs: int
    gpu_hours: float
    trials: tuple[TrialSummary, ...]
    budget: dict[str, float] = field(default_factory=dict)
    best_trial: int | None = None
    eta: float | None = None
    reason: str = ""
    model: str = ""

    @property
    def full_epochs(self) -> int:
        """Epochs that training every trial to the end would take."""
        return len(self.trials) * self.max_resource

    def ranked(self) -> list[TrialSummary]:
        """Return the trials that have a feasible value, best first."""
        valued = [trial for trial in self.trials if trial.best is not None]
        sign = -1.0 if self.mode == "max" else 1.0
        return sorted(
            valued,
            key=lambda trial: (
                sign * (trial.best or 0.0),
                trial.trial_id != self.best_trial,
                trial.best_epoch,
                trial.trial_id,
            ),
        )

    def count(self, status: str) -> int:
        """Return how many trials have this status."""
        return sum(trial.status == status for trial in self.trials)

    def count_infeasible(self) -> int:
        """Return how many trials broke a constraint at their last report; failed ones do not count."""
        return sum(trial.infeasible != "" and trial.status != "FAILED" for trial in self.trials)
