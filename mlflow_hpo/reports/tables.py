"""Studies and their best trials as tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len

from mlflow_hpo.errors import StudyError
from mlflow_hpo.reports.words import brief, plain
from mlflow_hpo.tracking.listing import ListedStudy
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary, whose_model

NARROW, WIDE = 24, 500  # characters of a cell, and of a value


def studies_table(studies: Sequence[ListedStudy]) -> list[str]:
    """Return studies as a table, one a line, below a line of headings."""
    rows = [("RUN ID", "NAME", "EXPERIMENT", "STATUS", "METRIC", "BEST", "TRIALS", "STARTED")]
    for study in studies:
        planned = "" if study.trials_planned is None else f"/{study.trials_planned}"
        rows.append(
            (
                plain(study.run_id),
                brief(study.name, NARROW),
                brief(study.experiment, NARROW),
                study.status,
                brief(f"{study.metric} ({study.mode})", NARROW),
                "-" if study.best is None else f"{study.best:.6g}",
                f"{study.trials_started}{planned}",
                datetime.fromtimestamp(study.started).astimezone().strftime("%Y-%m-%d %H:%M"),
            )
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns.

    >>> aligned([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def winner(study: StudySummary) -> TrialSummary:
    """Return the best trial of a study. Raises StudyError if no trial has a feasible value."""
    ranked = study.ranked()
    if not ranked:
        raise StudyError(f"no trial of study {study.run_id} has a feasible value yet")
    return ranked[0]


def model_uri(study: StudySummary) -> str | None:
    """Return where the model of the best trial is logged, None if it is not."""
    best = winner(study)
    if study.model != whose_model(best.trial_id, best.best_epoch):
        return None
    return f"runs:/{study.run_id}/model"


def best_data(study: StudySummary) -> dict[str, Any]:
    """Return the best trial of a study as plain data. Raises StudyError if there is none."""
    best = winner(study)
    return {
        "study": study.run_id,
        "metric": study.metric,
        "mode": study.mode,
        "value": best.best,
        "epoch": best.best_epoch,
        "trial": best.trial_id,
        "trial_run_id": best.run_id,
        "trial_status": best.status,
        "config": best.params,
        "model_uri": model_uri(study),
    }


def best_lines(study: StudySummary) -> list[str]:
    """Return the best trial of a study in words. Raises StudyError if there is none."""
    best = winner(study)
    lines = [
        f"{brief(study.metric)} ({plain(study.mode)}): {best.best:.6g}",
        f"trial: {best.trial_id}, epoch {best.best_epoch}, run {best.run_id}",
        f"model: {model_uri(study) or 'none is logged'}",
        "configuration:",
    ]
    return lines + [f"  {brief(name)}: {brief(str(value), WIDE)}" for name, value in best.params.items()]
