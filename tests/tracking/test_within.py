"""What training code tells MLflow by itself lands in the run of its trial."""

import json
import threading

import mlflow
import pytest
import trainings
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from mlflow_hpo import Study, StudyError
from mlflow_hpo.tracking.listing import list_studies
from mlflow_hpo.tracking.reader import read_study
from mlflow_hpo.tracking.recovery import read_recording

SPACE = {"x": {"type": "float", "low": -1.0, "high": 1.0}, "deep": {"type": "categorical", "choices": [True]}}
KEYS = {"metric": "loss", "mode": "min", "searcher": "random", "trials": 3, "seed": 1}
HALVING = {"scheduler": {"name": "successive_halving", "eta": 3}, "max_resource": 3}


def runs_of(store, study, kind):
    """The runs of a kind, by their parents."""
    experiment = store.get_run(study.run_id).info.experiment_id
    found = store.search_runs([experiment], f"tags.`hpo.kind` = '{kind}'")
    return {(run.data.tags["mlflow.parentRunId"], run.info.run_name): run for run in found}


def searched(train, **keys):
    study = Study(train, SPACE, **{**KEYS, **HALVING, **keys})
    study.run()
    return study


def test_a_plain_run_is_that_of_the_trial(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")  # we log them ourselves
    study = searched(trainings.logs_as_a_script, trials=3)
    trials, nested = runs_of(store, study, "trial"), runs_of(store, study, "nested")
    assert sorted(name for _, name in trials) == ["trial-0000", "trial-0001", "trial-0002"]
    assert sorted(run.info.status for run in trials.values()) == ["FINISHED", "KILLED", "KILLED"]
    [winner] = [run for run in trials.values() if run.info.status == "FINISHED"]
    assert winner.data.tags["team"] == "vision"
    assert winner.data.params.items() >= {"layers": "3"}.items()
    assert winner.data.metrics.items() >= {"gradient": 0.3, "loss": 1 / 3, "size": 3.0}.items()
    assert (
        winner.data.metrics.items() >= {"logged/loss": 99.0, "logged/size": 99.0, "afterwards": 1.0}.items()
    )
    assert winner.data.metrics["best_loss"] == 1 / 3
    assert not [name for name in winner.data.metrics if name.startswith("logged/system/")]
    steps = [point.step for point in store.get_metric_history(winner.info.run_id, "loss")]
    assert steps[0] == 1
    assert 0 not in steps
    assert [each.path for each in store.list_artifacts(winner.info.run_id)] == ["notes.txt"]

    parents = {parent for parent, _ in nested}
    assert parents == {run.info.run_id for run in trials.values()}
    assert {run.info.status for run in nested.values()} == {"FINISHED"}
    assert {name for parent, name in nested if parent == winner.info.run_id} == {"fold 1", "fold 2", "fold 3"}

    # nobody takes them for trials
    assert len(list_studies()) == 1
    assert len(read_study(study.run_id).trials) == 3
    assert len(read_recording(study.run_id).trials) == 3
    assert study.best.value == 1 / 3


def test_params_of_the_configuration_stay_as_the_study_writes_them(store):
    def train(trial):
        mlflow.log_params({"x": trial.params["x"], "deep": "no"})
        mlflow.log_param("x", 7)
        for epoch in trial.epochs():
            trial.report(epoch, loss=1.0)

    study = searched(train, trials=1, max_resource=1, scheduler="full")
    [run] = runs_of(store, study, "trial").values()
    assert float(run.data.params["x"]) == study.best.config["x"]
    assert run.data.params["logged/deep"] == "no"
    assert run.data.params["logged/x"] == "7"
    assert json.loads(run.data.params["deep"].lower()) is True


def test_tags_of_the_study_stay_as_it_sets_them(store):
    def train(trial):
        mlflow.set_tag("hpo.trial", "77")
        mlflow.set_tags({"hpo.kind": "study", "team": "vision"})
        for epoch in trial.epochs():
            trial.report(epoch, loss=1.0)

    study = searched(train, trials=1, max_resource=1, scheduler="full")
    [run] = runs_of(store, study, "trial").values()
    assert run.data.tags["hpo.trial"] == "0"
    assert run.data.tags["team"] == "vision"


def test_clients_threads_and_asynchronous_logging_land_there_too(store):
    def train(trial):
        client = MlflowClient()
        run = client.create_run("0")  # as the loggers of Lightning and others do
        client.log_metric(run.info.run_id, "by_client", 1.0)
        client.log_batch(run.info.run_id, metrics=[Metric("loss", 99.0, 0, 0)])
        thread = threading.Thread(target=lambda: mlflow.log_metric("in_thread", 2.0))
        thread.start()
        thread.join()
        with mlflow.start_run():
            mlflow.log_metrics({"later": 3.0, "loss": 98.0}, synchronous=False)
            mlflow.flush_async_logging()
        client.set_terminated(run.info.run_id, "FAILED")
        for epoch in trial.epochs():
            trial.report(epoch, loss=1.0)

    # another experiment than the environment of the driver names
    study = searched(train, trials=2, max_resource=1, scheduler="full", experiment="elsewhere")
    trials = runs_of(store, study, "trial").values()
    assert [run.info.status for run in trials] == ["FINISHED"] * 2
    for run in trials:
        assert run.data.metrics.items() >= {"by_client": 1.0, "in_thread": 2.0, "later": 3.0}.items()
        assert {point.value for point in store.get_metric_history(run.info.run_id, "logged/loss")} == {98, 99}
        assert run.data.metrics["loss"] == 1.0
    experiment = store.get_run(study.run_id).info.experiment_id
    assert len(store.search_runs([experiment, "0"])) == 3


def test_a_failed_trial_tells_so_whatever_its_run_was_told(store):
    def train(trial):
        with mlflow.start_run():
            mlflow.log_metric("seen", 1.0)
            mlflow.start_run(nested=True)  # left open
            raise ValueError("on purpose")

    with pytest.raises(StudyError):
        searched(train, trials=2, max_failures=5)
    experiment = store.get_experiment_by_name("test").experiment_id
    runs = store.search_runs([experiment], "tags.`hpo.kind` = 'trial'")
    assert [(run.info.status, run.data.tags["hpo.stop_reason"]) for run in runs] == [
        ("FAILED", "ValueError: on purpose")
    ] * 2
    nested = store.search_runs([experiment], "tags.`hpo.kind` = 'nested'")
    assert [run.info.status for run in nested] == ["FAILED"] * 2


def test_autologging_lands_there(store):
    def train(trial):
        from sklearn.linear_model import SGDClassifier

        mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
        model = SGDClassifier(alpha=abs(trial.params["x"]) + 1e-3, max_iter=5, tol=None)
        model.fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
        for epoch in trial.epochs():
            trial.report(epoch, loss=1.0 - model.score([[0.0], [3.0]], [0, 1]))

    study = searched(train, trials=1, max_resource=1, scheduler="full")
    [run] = runs_of(store, study, "trial").values()
    assert run.data.params["max_iter"] == "5"
    assert "training_score" in run.data.metrics
    assert run.info.run_name == "trial-0000"


def test_training_that_does_not_use_mlflow_opens_no_store(store):
    def train(trial):
        from mlflow.tracking._tracking_service import utils

        cached = utils._tracking_store_registry._get_store_with_resolved_uri.cache_info().currsize
        for epoch in trial.epochs():
            trial.report(epoch, loss=float(cached))

    assert searched(train, trials=1, max_resource=1, scheduler="full").best.value == 0.0
