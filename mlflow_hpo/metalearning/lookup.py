"""Runs by their ids, many in a request and several requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mlflow.entities import Run
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient

from mlflow_hpo.tracking.connect import ask

_AT_ONCE = 100  # runs a request
_THREADS = 8


def runs_by_id(client: MlflowClient, experiments: Sequence[str], run_ids: Sequence[str]) -> dict[str, Run]:
    """Return those of the runs that there are in some experiments, by id.

    Args:
        client: of the store.
        experiments: their ids.
        run_ids: of letters, digits, ``_`` and ``-`` only.

    Raises:
        StudyError: the store cannot be used.
    """

    def found(part: Sequence[str]) -> PagedList[Run]:
        listed = ", ".join(f"'{run_id}'" for run_id in part)
        return ask(
            "MLFLOW_TRACKING_URI: cannot read the studies and runs",
            client.search_runs,
            list(experiments),
            f"attributes.run_id IN ({listed})",
            max_results=_AT_ONCE,
        )

    parts = [run_ids[start : start + _AT_ONCE] for start in range(0, len(run_ids), _AT_ONCE)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-lookup") as pool:
        return {run.info.run_id: run for page in pool.map(found, parts) for run in page}
