"""Conclusion: whether a search has a result, why it has none, and the model of the best trial."""

from __future__ import annotations

from pathlib import Path

from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.errors import HpoError, StudyError
from mlflow_hpo.feasibility import Feasibility
from mlflow_hpo.ledger import Ledger
from mlflow_hpo.optimizer import BestTrial
from mlflow_hpo.tracking.away import in_one_line
from mlflow_hpo.tracking.tracker import Tracker
from mlflow_hpo.trial import DescribedTraining


def check_failures(ledger: Ledger, max_failures: int, *, any_value: bool) -> None:
    """Raise StudyError where so many trials failed and none succeeded.

    Args:
        ledger: the trials.
        max_failures: so many.
        any_value: whether any trial reported a finite feasible value.
    """
    if any_value:
        return
    failures = ledger.failures()
    succeeded = any(ledger.trials[trial_id].status != "RUNNING" for trial_id in ledger.infeasible())
    if len(failures) >= max_failures and not succeeded:
        raise StudyError(
            f"max_failures: {len(failures)} trials failed and none succeeded, "
            f"the last one with: {failures[-1]}"
        )


def why_no_best(config: StudyConfig, ledger: Ledger, feasibility: Feasibility, stopped: str) -> str:
    """Return in words why no trial is the best.

    `stopped` says why the study handed out no more jobs, "" if it did not stop early.
    """
    failures, infeasible = ledger.failures(), ledger.infeasible()
    which = "feasible trial" if config.constraints else "trial"
    parts = [f"no {which} reported a finite {config.metric.name}"]
    if infeasible:
        broken = feasibility.broken_by(infeasible)
        parts.append(f"{len(infeasible)} of {len(ledger.trials)} trials are infeasible: {broken}")
    if failures:
        parts.append(f"the last failure: {failures[-1]}")
    elif stopped:
        parts.append(stopped)
    return "; ".join(parts)


def log_model(
    train: DescribedTraining,
    best: BestTrial,
    books: Bookkeeper,
    tracker: Tracker,
    folder: Path,
    *,
    register_as: str | None,
) -> str:
    """Log the model of the best trial's best epoch to the parent run.

    Args:
        train: knows how to make a model of a checkpoint.
        best: whose model it is.
        books, tracker: of the study.
        folder: for the checkpoint, for a while.
        register_as: name under which to register the model.

    Returns:
        Why there is none, "" if there is one.
    """
    try:
        path = books.best_checkpoint(best, folder)
        if path is None:
            return "no checkpoint of its best epoch"
        with in_one_line("cannot write it"), tracker.active():
            train.log_model(path, best.config, registered_model_name=register_as)
    except HpoError as error:  # a search does not fail for it
        return str(error)
    return ""
