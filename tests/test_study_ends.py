"""A study that ends early by its own rules: a goal, and trials that stop by their own curves."""

import pytest
import trainings

from mlflow_hpo import Study, StudyError
from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.tracking.tracker import Tracker


def search(train, **keys):
    study = Study(
        train, trainings.SPACE, metric="loss", mode="min", searcher="random", max_resource=9, seed=1, **keys
    )
    study.run()
    return study


def children(store, study):
    experiment = store.get_run(study.run_id).info.experiment_id
    runs = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    return {int(run.data.tags["hpo.trial"]): run for run in runs}


def test_a_study_ends_when_it_reaches_its_goal(store):
    study = search(trainings.quick, scheduler="asha", trials=50, workers=2, goal=0.6)
    parent, trials = store.get_run(study.run_id), children(store, study)
    assert study.best.value <= 0.6
    assert (parent.info.status, parent.data.tags["hpo.stop_reason"]) == ("FINISHED", "goal reached")
    assert parent.data.params["hpo.goal"] == "0.6"
    assert len(trials) < 50
    assert {run.info.status for run in trials.values()} <= {"KILLED", "FINISHED"}
    winner = trials[study.best.trial_id].data.tags
    assert winner["hpo.stop_reason"] == f"goal reached at epoch {study.best.resource}"


def test_trials_that_diverge_end_early(store):
    study = search(trainings.nan_for_positive, scheduler="full", trials=6, early_stopping={"divergence": 10})
    assert store.get_run(study.run_id).data.params["hpo.early_stopping"] == '{"divergence": 10}'
    found = {
        (run.data.tags["hpo.epochs"], run.info.status)
        for trial, run in children(store, study).items()
        if study.optimizer.trials[trial].config["x"] > 0
    }
    assert found == {("1", "KILLED")}
    assert study.summary().count("FINISHED") > 0


def test_a_search_does_not_fail_for_artifacts_that_can_be_written_later(store, monkeypatch):
    written = Tracker._log_text

    def away(self, path, text):
        if path in ("best_config.yaml", "trials.csv"):
            raise ConnectionError("the bucket is away")
        written(self, path, text)

    monkeypatch.setattr(Tracker, "_log_text", away)
    study = search(trainings.quick, trials=3, scheduler="full")
    parent = store.get_run(study.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hpo.warning"] == "cannot write trials.csv: the bucket is away"
    assert parent.data.tags["hpo.best_trial"] == str(study.best.trial_id)
    monkeypatch.undo()
    again = Study(trainings.quick, resume=study.run_id)
    assert again.run() == study.best
    found = {each.path for each in store.list_artifacts(study.run_id)}
    assert {"best_config.yaml", "trials.csv", "trials.json"} <= found


def test_artifacts_that_will_never_be_written_are_a_failure(store, monkeypatch):
    monkeypatch.setattr(Bookkeeper, "write_best", refused)
    study = Study(trainings.quick, trainings.SPACE, metric="loss", mode="min", trials=2, max_resource=1)
    with pytest.raises(StudyError, match="the bucket is not yours"):
        study.run()
    assert store.get_run(study.run_id).info.status == "FAILED"


def refused(self, best):
    raise StudyError("the bucket is not yours")
