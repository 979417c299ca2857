"""Within a trial: what training code tells MLflow by itself goes to the run of its trial.

MLflow's own ways do not fit. A run that is active already makes a plain ``start_run`` raise; `MLFLOW_RUN_ID`
must be set before the training begins, when the trial's run may still be on its way, and whoever takes it up
ends the run; tags of a run context provider reach new runs only. So the tracking store that MLflow opens in a
worker process, where all of these end, looks at what it is asked.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunInfo, RunTag
from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_EXPERIMENT_NAME,
    MLFLOW_RUN_ID,
)
from mlflow.tracking._tracking_service import utils as stores
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.uri import get_uri_scheme

from mlflow_hpo.errors import StoreAwayError
from mlflow_hpo.tracking.connect import store_name, without_passwords
from mlflow_hpo.tracking.outage import is_outage
from mlflow_hpo.tracking.summary import SYSTEM, best_metric
from mlflow_hpo.tracking.transport import hasten

OTHER = "logged/"  # what begins the name of a value whose own name the study has taken
NESTED = RunTag("hpo.kind", "nested")  # a run that training code began below that of its trial


@dataclass(frozen=True, slots=True)
class Within:
    """The trial whose training code runs.

    Attributes:
        run_id: returns the id of its run, once that is created.
        params: its configuration.
        metrics: names of the metrics that the search looks at.
        reported: names of those that the trial reports; the set may grow.
    """

    run_id: Callable[[], str]
    params: Mapping[str, Any]
    metrics: Set[str]
    reported: Set[str]

    def metric(self, metric: Metric) -> Metric:
        """Return what is to be written of a metric that the training code logs."""
        taken = self.metrics | self.reported | set(map(best_metric, self.metrics))
        if metric.key not in taken and not metric.key.startswith(SYSTEM):
            return metric
        return Metric(**{**dict(metric), "key": OTHER + metric.key})

    def param(self, param: Param) -> Param | None:
        """Return what is to be written of a param; None for one of the configuration, which is there."""
        if param.key not in self.params:
            return param
        if param.value == str(self.params[param.key]):
            return None
        return Param(OTHER + param.key, param.value)


class Inside:
    """Whose training code runs in this process; one at a time, with threads of its own perhaps."""

    def __init__(self) -> None:
        self._present: Within | None = None
        self._runs: dict[str, tuple[Within, RunInfo]] = {}
        self._redirected: set[str] = set()

    @contextlib.contextmanager
    def trial(self, trial: Within, uri: str, environment: Mapping[str, str]) -> Iterator[None]:
        """Around the training code of a trial, in the thread that runs it.

        Args:
            trial: whose.
            uri: of the tracking store.
            environment: MLflow's settings.

        Raises:
            StoreAwayError: instead of what the training code raised because the store was away.
        """
        self._redirect(uri)
        os.environ.update(environment)
        # the experiment is told by its id; the other two are our task here
        for setting in (MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID, MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING):
            os.environ.pop(setting.name, None)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        mlflow.set_tracking_uri(uri)
        self._present = trial
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except mlflow.MlflowException as error:
            if is_outage(error):
                raise StoreAwayError(without_passwords(" ".join(str(error).split()))) from error
            raise
        finally:
            while mlflow.active_run() is not None:  # the next trial must not find it
                with contextlib.suppress(Exception):
                    mlflow.end_run(status)
            self._present = None

    def _redirect(self, uri: str) -> None:
        """Have the store of `uri` look at what it is asked, from when MLflow opens it."""
        name, registry = store_name(uri), stores._tracking_store_registry
        if name in self._redirected:
            return
        self._redirected.add(name)
        build = registry.get_store_builder(uri)

        @functools.wraps(build)
        def redirected(store_uri: str, artifact_uri: str | None = None) -> Any:
            store = build(store_uri=store_uri, artifact_uri=artifact_uri)
            if store_name(store_uri) == name:
                hasten(store_uri)
                self._stand_before(store)
            return store

        registry.register(get_uri_scheme(uri), redirected)
        # the module of the training may have used MLflow when it was imported
        registry._get_store_with_resolved_uri.cache_clear()

    def _stand_before(self, store: Any) -> None:
        """Replace the methods of one store that create runs, end them, or write what the study writes."""
        create_run, update_run_info, log_batch, log_batch_async = (
            *(store.create_run, store.update_run_info),
            *(store.log_batch, store.log_batch_async),
        )
        log_metric, log_param, set_tag = store.log_metric, store.log_param, store.set_tag

        def created(
            experiment_id: str, user_id: str, start_time: int, tags: list[RunTag], run_name: str
        ) -> Any:
            present = self._present
            if present is None:
                return create_run(experiment_id, user_id, start_time, tags, run_name)
            parent = next((tag.value for tag in tags if tag.key == MLFLOW_PARENT_RUN_ID), None)
            if parent is not None:
                if parent in self._runs:  # MLflow shows them nested within one experiment only
                    experiment_id = self._runs[parent][1].experiment_id
                return create_run(experiment_id, user_id, start_time, [*tags, NESTED], run_name)
            run = store.get_run(present.run_id())
            self._runs[run.info.run_id] = present, run.info
            if new := [tag for tag in tags if not _is_ours(tag) and not _has(run, tag.key)]:
                log_batch(run.info.run_id, [], [], new)
            return run

        def updated(run_id: str, run_status: int, end_time: int, run_name: str) -> Any:
            if run_id in self._runs:  # its status is for the study to tell
                return self._runs[run_id][1]
            return update_run_info(run_id, run_status, end_time, run_name)

        def checked(run_id: str, metrics: Iterable[Metric], params: Iterable[Param]) -> tuple[Any, Any]:
            if run_id not in self._runs:
                return metrics, params
            trial, _ = self._runs[run_id]
            kept = (trial.param(param) for param in params)
            return [trial.metric(metric) for metric in metrics], [param for param in kept if param]

        def permitted(run_id: str, tags: Iterable[RunTag]) -> Any:
            return [tag for tag in tags if not _is_ours(tag)] if run_id in self._runs else tags

        def batch(run_id: str, metrics: Any, params: Any, tags: Any) -> Any:
            return log_batch(run_id, *checked(run_id, metrics, params), permitted(run_id, tags))

        def later(run_id: str, metrics: Any, params: Any, tags: Any) -> Any:
            return log_batch_async(run_id, *checked(run_id, metrics, params), permitted(run_id, tags))

        def one_metric(run_id: str, metric: Metric) -> None:
            for each in checked(run_id, [metric], [])[0]:
                log_metric(run_id, each)

        def one_param(run_id: str, param: Param) -> None:
            for each in checked(run_id, [], [param])[1]:
                log_param(run_id, each)

        def one_tag(run_id: str, tag: RunTag) -> None:
            for each in permitted(run_id, [tag]):
                set_tag(run_id, each)

        store.create_run, store.update_run_info = created, updated
        store.log_batch, store.log_batch_async = batch, later
        store.log_metric, store.log_param, store.set_tag = one_metric, one_param, one_tag


def _is_ours(tag: RunTag) -> bool:
    """Whether a tag is for the study to set."""
    return tag.key.startswith("hpo.")


def _has(run: Run, tag: str) -> bool:
    """Whether a run has a tag of MLflow's own, such as its name or source, from when the study made it."""
    return tag.startswith("mlflow.") and tag in run.data.tags


INSIDE = Inside()
