"""Creation: a run that is to be created, once, even where the store's answer gets lost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future

from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

TRIAL = "hpo.trial"


class Creation:
    """A run that is to be created.

    Args:
        experiment_id: where.
        tags: of the run.
        run_name: its name.
    """

    def __init__(self, experiment_id: str, tags: Mapping[str, str], run_name: str) -> None:
        self.future: Future[Run] = Future()
        self.future.set_running_or_notify_cancel()  # nobody may cancel it while it is made
        self.failures = 0
        self._experiment_id = experiment_id
        self._tags = dict(tags)
        self._run_name = run_name
        self._start = int(time.time() * 1000)

    def make(self, client: MlflowClient) -> Run:
        """Create the run, or return it where an earlier try has done so without our learning of it."""
        try:
            tried = self.failures > 0
            found = self._found(client) if tried else []
            if found:
                return found[0]
            run = client.create_run(
                self._experiment_id, start_time=self._start, tags=self._tags, run_name=self._run_name
            )
            # an earlier try may have been still on its way when it was looked for
            for other in self._found(client) if tried else []:
                if other.info.run_id != run.info.run_id:
                    client.delete_run(other.info.run_id)
            return run
        except Exception:
            self.failures += 1
            raise

    def _found(self, client: MlflowClient) -> list[Run]:
        """Return the runs that begin at the same millisecond, for the same trial of the same parent."""
        terms = [f"attributes.start_time = {self._start}"]
        for key in (MLFLOW_PARENT_RUN_ID, TRIAL):
            if key in self._tags:
                terms.append(f"tags.`{key}` = '{self._tags[key]}'")
        runs = client.search_runs([self._experiment_id], " and ".join(terms), max_results=100)
        return [run for run in runs if run.info.run_name == self._run_name]
