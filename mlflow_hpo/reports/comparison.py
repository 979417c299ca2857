"""Several studies side by side, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_hpo.reports.tables import NARROW, aligned
from mlflow_hpo.reports.text import duration
from mlflow_hpo.reports.words import brief, plain
from mlflow_hpo.tracking.summary import StudySummary


def comparison_data(studies: Sequence[StudySummary]) -> list[dict[str, Any]]:
    """Return what is compared of each study, the best first where all optimise one metric.

    `best` is None where no trial has a value.
    """
    return [_compared(study) for study in _in_order(studies)]


def comparison_table(studies: Sequence[StudySummary]) -> list[str]:
    """Return studies as a table, one a line, below headings; their order is as in `comparison_data`.

    `SAVED` is the share of epochs that stopping early saved against full training of every trial.
    """
    heading = ("RUN ID", "NAME", "STATUS", "METRIC", "BEST", "TRIALS", "FAILED", "EPOCHS", "SAVED", "TIME")
    rows = [(*heading, "SEARCHER", "SCHEDULER")]
    for study in _in_order(studies):
        told = _compared(study)
        best, saved = told["best"], told["saved"]
        rows.append(
            (
                plain(study.run_id),
                brief(study.name, NARROW),
                study.status,
                brief(f"{study.metric} ({study.mode})", NARROW),
                "-" if best is None else f"{best:.6g}",
                f"{told['trials']}/{study.trials_planned}",
                str(told["failed"]),
                str(study.epochs),
                "-" if saved is None else f"{saved:.0%}",
                duration(study.seconds),
                brief(study.searcher, NARROW),
                brief(study.scheduler, NARROW),
            )
        )
    return aligned(rows)


def _in_order(studies: Sequence[StudySummary]) -> Sequence[StudySummary]:
    if len({(study.metric, study.mode) for study in studies}) > 1:
        return studies
    sign = -1.0 if studies and studies[0].mode == "max" else 1.0
    return sorted(studies, key=lambda study: _rank(_best(study), sign))


def _compared(study: StudySummary) -> dict[str, Any]:
    full = study.full_epochs
    return {
        "run_id": study.run_id,
        "name": study.name,
        "status": study.status,
        "metric": study.metric,
        "mode": study.mode,
        "best": _best(study),
        "trials": len(study.trials),
        "trials_planned": study.trials_planned,
        "failed": study.count("FAILED"),
        "stopped_early": study.count("KILLED"),
        "epochs": study.epochs,
        "saved": max(0.0, 1 - study.epochs / full) if full and study.epochs else None,
        "seconds": study.seconds,
        "gpu_hours": study.gpu_hours,
        "searcher": study.searcher,
        "scheduler": study.scheduler,
    }


def _best(study: StudySummary) -> float | None:
    ranked = study.ranked()
    return ranked[0].best if ranked else None


def _rank(best: float | None, sign: float) -> tuple[bool, float]:
    return best is None, 0.0 if best is None else sign * best
