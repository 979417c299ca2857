"""`mlflow-hpo replay`: a recorded trial is trained again, and compared."""

import json
import os

import mlflow
import pytest
import trainings
from click.testing import CliRunner

from mlflow_hpo import tune
from mlflow_hpo.cli import main

KEYS = {"space": trainings.SPACE, "metric": "loss", "mode": "min", "max_resource": 3, "trials": 2, "seed": 0}


def replay(*arguments, code=0):
    done = CliRunner().invoke(main, ["replay", *arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def runs(kind="trial"):
    return mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`hpo.kind` = '{kind}'", output_format="list"
    )


@pytest.fixture
def trial(store):
    """A trial of a function that can be imported, trained in several jobs."""
    tune(trainings.with_checkpoints, **KEYS, searcher="random", scheduler="successive_halving")
    [best] = [run for run in runs() if run.info.status == "FINISHED"]
    return best


def test_a_trial_matches_and_its_run_stays_as_it_is(store, trial):
    before = store.get_run(trial.info.run_id).to_dictionary()
    files = store.list_artifacts(trial.info.run_id, "checkpoints")
    text = replay(trial.info.run_id)
    number = trial.data.tags["hpo.trial"]
    assert text == f"trial {number} matches: 2 metrics of 3 epochs, within 1e-06, on cpu\n"
    told = json.loads(replay(trial.info.run_id, "--json", "--metric", "loss"))
    assert (told["match"], told["epochs"], told["metrics"], told["difference"]) == (True, 3, ["loss"], None)
    assert store.get_run(trial.info.run_id).to_dictionary() == before
    assert store.list_artifacts(trial.info.run_id, "checkpoints") == files
    assert len(runs()) == 2


def test_it_has_as_many_threads_as_it_had(store):
    workers = 2 * len(os.sched_getaffinity(0))
    tune(trainings.tells_its_threads, **KEYS, searcher="random", scheduler="full", workers=workers)
    assert [run.data.metrics["threads"] for run in runs()] == [1, 1]
    assert "matches: 2 metrics" in replay(runs()[0].info.run_id)


def test_the_threads_that_the_user_has_set_reach_the_trials_but_not_a_replay(store, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("mlflow_hpo.launchers.host_cores._quotas", lambda *_: iter(()))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    tune(trainings.tells_its_threads, **KEYS, searcher="random", scheduler="full", workers=1)
    assert [run.data.metrics["threads"] for run in runs()] == [3, 3]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "matches: 2 metrics" in replay(runs()[0].info.run_id)


def test_the_first_epoch_that_differs_is_named(store, trial):
    [value] = [each.value for each in store.get_metric_history(trial.info.run_id, "loss") if each.step == 2]
    store.log_metric(trial.info.run_id, "loss", value + 0.125, step=2)
    text = replay(trial.info.run_id, code=1)
    assert text.startswith(
        f"trial {trial.data.tags['hpo.trial']} differs from epoch 2 on: loss was {value + 0.125!r}"
    )
    told = json.loads(replay(trial.info.run_id, "--json", code=1))
    assert (told["match"], told["epochs"]) == (False, 2)
    assert told["difference"] == {"epoch": 2, "metric": "loss", "recorded": value + 0.125, "again": value}
    assert "matches" in replay(trial.info.run_id, "--tolerance", "0.2")
    assert "matches" in replay(trial.info.run_id, "--metric", "length")


def test_times_are_compared_only_where_they_are_named(store, trial):
    for name in ("epoch_seconds", "latency_ms"):
        for step in (1, 2, 3):
            store.log_metric(trial.info.run_id, name, 0.5, step=step)
    assert "matches: 2 metrics" in replay(trial.info.run_id)
    assert "differs from epoch 1 on: latency_ms was 0.5" in replay(
        trial.info.run_id, "--metric", "latency_ms", code=1
    )


def test_a_metric_that_is_missing_now_differs(store, trial):
    store.log_metric(trial.info.run_id, "recall", 0.5, step=3)
    told = json.loads(replay(trial.info.run_id, "--json", code=1))
    assert told["difference"] == {"epoch": 3, "metric": "recall", "recorded": 0.5, "again": None}


def test_what_cannot_be_replayed_is_told(store, trial):
    [study] = runs("study")
    ids = trial.info.run_id, study.info.run_id

    def refused(*arguments, code):
        done = CliRunner().invoke(main, ["replay", *arguments])
        assert done.exit_code == code, done.output
        return done.output.splitlines()[-1].removeprefix("error: ")

    assert refused("0" * 32, code=2).startswith("trial_run_id: no such run")
    assert refused(ids[1], code=2) == f"trial_run_id: {ids[1]} is no trial of a study (tag hpo.kind)"
    told = refused(ids[0], "--metric", "x", code=2)
    assert told.startswith("metric: the trial has none called 'x'; it has ")
    for task, message in (
        ("train", "was trained by the function 'train' of a script, which cannot be imported"),
        ("nowhere.train", "was trained by 'nowhere.train', which cannot be imported here: No module named"),
        ("trainings.nothing", "was trained by 'trainings.nothing', which cannot be imported here: module"),
    ):
        store.log_text(ids[1], json.dumps({"data": task}), "data.json")
        assert refused(ids[0], code=2).startswith(f"trial_run_id: {message}")
    store.log_text(ids[1], json.dumps({"data": "trainings.returns_early"}), "data.json")
    told = refused(ids[0], "--metric", "loss", "--tolerance", "1", code=1)
    assert told.startswith("the training failed after epoch 1 of 3: ")
    keys = {"metric": {"name": "loss", "mode": "min"}, "space": trainings.SPACE, "launcher": "project"}
    store.log_text(ids[1], json.dumps(keys), "search.yaml")
    told = refused(ids[0], code=2)
    assert "is of an MLflow project" in told
    assert "-P kind=" in told
    store.set_tag(ids[1], "hpo.remembered", "2")
    assert "what it was trained with is not known" in refused(ids[0], code=1)
