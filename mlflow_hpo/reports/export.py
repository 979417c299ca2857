"""All trials of a study as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlflow_hpo.reports.words import as_json, plain
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary

if TYPE_CHECKING:
    import pandas as pd

PARAM = "params."  # begins the columns of parameters, so that none has the name of another column


def to_csv(study: StudySummary) -> bytes:
    """Return the trials as CSV in UTF-8, one a line; what is not set is empty.

    Control characters in texts become escapes such as ``\\x1b``: a CSV file is looked at in terminals.
    """
    rows, columns = _table(study)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([plain(column) for column in columns])
    for row in rows:
        cells = [row.get(column) for column in columns]
        writer.writerow([plain(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue().encode()


def to_json(study: StudySummary) -> bytes:
    """Return the study and its trials as JSON in ASCII; numbers that JSON does not know become null."""
    about = {
        name: getattr(study, name)
        for name in ("run_id", "name", "status", "metric", "mode", "searcher", "scheduler", "reason")
    }
    trials = [trial.row() | {"params": trial.params} for trial in study.trials]
    return (as_json({"study": about, "trials": trials}) + "\n").encode()


def to_parquet(study: StudySummary) -> bytes:
    """Return the trials as a Parquet file; a parameter with values of several types becomes text, as JSON."""
    import pyarrow as pa  # takes a while, and is needed for this format only
    from pyarrow import parquet

    rows, columns = _table(study)
    data = {column: _of_one_type([row.get(column) for row in rows]) for column in columns}
    types = {"value": pa.float64(), "best": pa.float64(), "seconds": pa.float64()}
    table = pa.table({column: pa.array(values, types.get(column)) for column, values in data.items()})
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def to_dataframe(study: StudySummary) -> pd.DataFrame:
    """Return the trials as a table, one a row, with the columns of the other formats."""
    import pandas as pd  # takes a while, and is needed here only

    rows, columns = _table(study)
    return pd.DataFrame(rows, columns=columns)


def export(study: StudySummary, form: str) -> bytes:
    """Return the trials in a format: csv, json or parquet."""
    forms: dict[str, Callable[[StudySummary], bytes]] = {
        "csv": to_csv,
        "json": to_json,
        "parquet": to_parquet,
    }
    return forms[form](study)


def _table(study: StudySummary) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [
        trial.row() | {f"{PARAM}{name}": value for name, value in trial.params.items()}
        for trial in study.trials
    ]
    empty = TrialSummary(trial_id=0, run_id="", status="", params={})
    return rows, list(dict.fromkeys(column for row in [empty.row(), *rows] for column in row))


def _of_one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        return [float(value) if kinds == {int, float} and value is not None else value for value in values]
    return [None if value is None else json.dumps(value) for value in values]
