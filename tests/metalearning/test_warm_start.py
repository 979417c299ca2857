"""Studies that begin with what earlier ones found, through MLflow."""

import json

import mlflow
import pytest
import trainings
import yaml
from click.testing import CliRunner

from mlflow_hpo import ConfigError, History, SearchSpace, Study
from mlflow_hpo.cli import bundled_study, main
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.tracking.history import HISTORY, written_history

SPACE = SearchSpace(trainings.SPACE)


def search(train=trainings.quick, *, space=SPACE, **keys):
    """Run a small study and return it."""
    defaults = {"metric": "loss", "mode": "min", "searcher": "random", "scheduler": "asha",
                "max_resource": 9, "trials": 12, "seed": 1}  # fmt: skip
    study = Study(train, space, **(defaults | keys))
    study.run()
    return study


def children(store, study):
    parent = store.get_run(study.run_id)
    runs = store.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    return {int(run.data.tags["hpo.trial"]): run for run in runs}


def artifact(study, path):
    return json.loads(mlflow.artifacts.load_text(f"runs:/{study.run_id}/{path}"))


def mined(experiments=("test",), metric="loss", mode="min", space=SPACE):
    return History.from_mlflow(experiments, metric=metric, mode=mode, space=space)


def test_a_study_leaves_every_trial_and_curve(store):
    study = search()

    [task] = mined().tasks
    runs = children(store, study)

    assert task.name == "trainings.quick"
    assert len(task.trials) == 12
    for number, trial in enumerate(task.trials):
        assert trial.run_id == runs[number].info.run_id
        assert trial.config == study.optimizer.trials[number].config
        points = store.get_metric_history(trial.run_id, "loss")
        assert trial.curve == tuple((point.step, point.value) for point in points)


def test_a_warm_start_begins_with_the_best_of_before_and_says_so(store):
    first = search(trials=40)
    best = first.best.config

    second = search(trials=12, seed=2, warm_start=["test"])

    runs = children(store, second)
    assert second.optimizer.trials[0].config["x"] == pytest.approx(best["x"], abs=0.1)
    warm = [number for number, run in runs.items() if "hpo.warm_start" in run.data.tags]
    assert sorted(warm) == list(range(len(warm)))
    assert 1 <= len(warm) <= 12 // 4
    record = artifact(second, "warm_start.json")
    sources = [entry["run_id"] for entry in record["configurations"]]
    for number in warm:
        assert runs[number].data.tags["hpo.warm_start"] == f"trainings.quick {sources[number]}"
    assert set(sources) <= {run.info.run_id for run in children(store, first).values()}
    assert record["tasks"] == [{"task": "trainings.quick", "weight": 1.0, "features": {}, "trials": 40}]
    assert (
        "chosen from 40 trials on 1 task in test"
        in store.get_run(second.run_id).data.params["hpo.warm_start"]
    )


def test_what_is_recorded_runs_the_same_search_again(store):
    search(trials=20)
    warm = search(seed=2, warm_start="auto")
    written = mlflow.artifacts.load_text(f"runs:/{warm.run_id}/search.yaml")
    assert "warm_start" not in written

    again = search(seed=2, points=yaml.safe_load(written)["points"])

    configs = [[record.config for record in study.optimizer.trials.values()] for study in (warm, again)]
    assert configs[0] == configs[1]


def test_given_points_come_before_it(store):
    search(trials=20)
    point = {"x": 0.25, "kind": "round"}
    study = search(seed=2, points=[point], warm_start=["test"])
    runs = children(store, study)
    assert study.optimizer.trials[0].config == point
    assert "hpo.warm_start" not in runs[0].data.tags
    assert "hpo.warm_start" in runs[1].data.tags


def test_without_a_history_the_search_starts_cold_and_says_so(store):
    other = SearchSpace({"z": {"type": "float", "low": 0, "high": 1}})
    cold = search(seed=2)
    alone = search(seed=2, warm_start="auto", trials=12)  # of one study there is a history
    assert "hpo.warm_start" in children(store, alone)[0].data.tags

    assert not mined(metric="accuracy", mode="max")
    assert not mined(space=other)
    history = mined(metric="accuracy", mode="max")
    assert history.skipped == {"studies of another metric": 2}
    assert cold.best


def test_studies_that_failed_or_whose_record_is_damaged_are_told(store):
    damaged = search()
    ended = search(seed=2)
    store.log_text(damaged.run_id, "{not json", HISTORY)
    store.set_terminated(ended.run_id, "FAILED")

    history = mined()

    assert not history
    assert history.skipped == {"studies that run or failed": 1, "studies without a readable history": 1}


def test_hostile_trials_are_left_out(store):
    study = search()
    trials = artifact(study, HISTORY)["trials"]
    trials[0]["params"] = {"x": "__import__('os')", "kind": "round"}
    trials[1]["params"] = {"<script>": "1" * 10_000, **trials[1]["params"]}
    trials[2]["curve"] = "many"
    del trials[3]["run_id"]
    trials[4] = None
    store.log_text(study.run_id, json.dumps({"schema": 1, "trials": trials}), HISTORY)

    history = mined()

    assert history.trials == 12 - 5
    assert history.skipped == {
        "with a value outside of the space": 1,
        "with a parameter that the space does not have": 1,
        "trials that cannot be read": 3,
    }


def test_an_experiment_that_is_not_there_is_an_error_before_anything_starts(store):
    with pytest.raises(ConfigError, match="warm_start: there is no active experiment 'nowhere'"):
        search(warm_start=["nowhere"])
    assert store.get_experiment_by_name("test") is None


def test_infeasible_values_teach_nothing(store):
    study = search(constraints=["seed <= 2147483648"])  # about half of the trials
    infeasible = sum(not record.feasible for record in study.optimizer.trials.values())

    history = mined()

    assert 0 < infeasible < 12
    assert history.trials == 12 - infeasible
    assert history.skipped == {"without a finite value": infeasible}


def test_values_that_are_not_finite_are_not_written():
    trial = {
        "trial": 0,
        "run_id": "r",
        "params": {},
        "curve": [(1, float("nan")), (2, 0.5), (3, float("inf"))],
    }
    assert json.loads(written_history([trial]))["trials"][0]["curve"] == [[2, 0.5]]


@pytest.mark.parametrize(("flag", "names"), [("a, b", ("a", "b")), ("auto", ("auto",)), ("", ())])
def test_the_flag(flag, names):
    _, keys = bundled_study("", {"warm_start": flag, "data": "wine"})
    assert StudyConfig.parse(keys).warm_start == names
    assert "--warm-start" in CliRunner().invoke(main, ["run", "--help"]).output
