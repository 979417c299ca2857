"""What mining brings home, of studies and of plain runs alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.space import Parameter

# what a damaged record brings, whoever wrote it
DAMAGED = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found in MLflow.

    Attributes:
        records: for `History.mined`, one for each trial.
        run_ids: the runs to name for the same records again.
        skipped: how many studies or runs were left out, by reason.
        unread: why studies could not be read, by run id; they are among the skipped.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unread: dict[str, StudyError] = field(default_factory=dict)


def read(parameter: Parameter, text: str) -> Any:
    """Return the value that a param's text stands for, the text itself where the parameter cannot read it."""
    try:
        return parameter.parse(text)
    except ConfigError:
        return text
