"""A study that ends early by its own rules: a goal, and trials that stop by their own curves."""

import trainings

from mlflow_hpo import Study


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
