"""Trials that are scripts: their runs hold all that was logged, and of that the search has heard a part."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import mlflow
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_TYPE

from mlflow_hpo.tracking.connect import ask
from mlflow_hpo.tracking.curves import Curve, Reading, written_curves
from mlflow_hpo.tracking.reached import is_settled, last_steps
from mlflow_hpo.tracking.recovery import RESUMES, settings_path
from mlflow_hpo.tracking.settings import settings
from mlflow_hpo.tracking.summary import TrialSummary

_THREADS = 8


def reading_of(client: MlflowClient, parent: Run) -> Reading:
    """Return how the metrics of a study's trials are read. Raises StudyError where its artifacts are away."""
    path = settings_path(int(parent.data.tags.get(RESUMES, "0")))
    problem = f"artifact store: cannot read {path}"
    text = ask(problem, mlflow.artifacts.load_text, f"runs:/{parent.info.run_id}/{path}")
    return Reading.of(client, yaml.safe_load(text))


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A trial of which the last value that its script has logged may not be that of its last epoch."""

    trial: TrialSummary
    reached: int  # the last epoch that the search has heard of; 0 while that is not known


class ScriptTrials:
    """Finds out where the trials of a project stand, as far as their runs alone do not tell.

    A script may log a few values more before it is stopped, and its steps are its own; the epoch of one that
    runs, and the value at the last epoch of one that has logged more, are in its curve. Curves are those that
    the study has written down; only where these do not tell it is asked for one.

    Args:
        client: of the store.
        parent: the study's run. Trials of one that does not search a project are left as they are.
        curves: of all trials, by run, where somebody knows them.

    Raises:
        StudyError: the artifact store is unreachable.
    """

    def __init__(self, client: MlflowClient, parent: Run, curves: Mapping[str, Curve] | None = None) -> None:
        self._parent = parent
        self._metric: str = parent.data.tags["hpo.metric"]
        self._most = int(settings(parent)["hpo.max_resource"])
        self._curves = curves
        self._doubts: list[_Doubt] = []
        self._reading: Reading | None = None
        if parent.data.tags.get(MLFLOW_SOURCE_TYPE) == "PROJECT":  # the bundled training may be, too
            reading = reading_of(client, parent)
            self._reading = reading if reading.scripts else None

    def look(self, run: Run, trial: TrialSummary) -> None:
        """Take note of a trial if it is in doubt."""
        if self._reading is None or self._metric not in run.data.metrics:
            return
        reached, step = trial.epochs if is_settled(run) else 0, last_steps(run)[self._metric]
        # before its last epoch is only the step of a script that counts from 0, or that ended by itself
        if self._reading.counted or not 0 < step < reached:
            self._doubts.append(_Doubt(trial, reached))

    def found(self) -> dict[str, TrialSummary]:
        """Return the trials that were in doubt, by run, as they are. Raises StudyError as the reader does."""
        curves = self._curves
        if curves is None and any(doubt.reached for doubt in self._doubts):
            curves = {
                run_id: curve for run_id, (curve, _) in written_curves(self._parent.info.run_id).items()
            }
        known = curves or {}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow-hpo-scripts") as pool:
            trials = pool.map(lambda doubt: self._as_heard(doubt, known), self._doubts)
            return {trial.run_id: trial for trial in trials}

    def _as_heard(self, doubt: _Doubt, known: Mapping[str, Curve]) -> TrialSummary:
        trial, reached = doubt.trial, doubt.reached
        if reached and trial.run_id in known:
            epochs, values = known[trial.run_id]
            place = bisect_right(epochs, reached) - 1
            if place >= 0 and epochs[place] == reached:
                return replace(trial, value=values[place])
        if self._reading is None:
            return trial
        told = {point.step: point.value for point in self._reading.told(trial.run_id, self._metric, reached)}
        within = [epoch for epoch in told if epoch <= (reached or self._most)]
        last = max(within, default=min(told, default=0))
        return replace(trial, epochs=reached or min(last, self._most), value=told.get(last, trial.value))
