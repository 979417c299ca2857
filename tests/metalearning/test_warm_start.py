"""Studies that begin with what earlier ones found, through MLflow."""

import functools
import json
from functools import partial
from pathlib import Path

import mlflow
import pytest
import trainings
import yaml
from click.testing import CliRunner
from small_studies import searched

from mlflow_hpo import ConfigError, History, SearchSpace, Study, StudyError
from mlflow_hpo.cli import bundled_study, main
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.tracking.details import read_details
from mlflow_hpo.tracking.history import HISTORY, WRITTEN, written_history
from mlflow_hpo.tracking.tracker import Tracker

SPACE = SearchSpace(trainings.SPACE)


search = partial(searched, max_resource=9, trials=12, seed=1)


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

    assert task.name == "trainings.quick in test"
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
        assert runs[number].data.tags["hpo.warm_start"] == f"trainings.quick in test {sources[number]}"
    assert set(sources) <= {run.info.run_id for run in children(store, first).values()}
    assert record["tasks"] == [
        {"task": "trainings.quick in test", "weight": 1.0, "features": {}, "trials": 40}
    ]
    assert (
        "40 trials on 1 task in test say what to try"
        in store.get_run(second.run_id).data.params["hpo.warm_start"]
    )


def test_what_is_recorded_runs_the_same_search_again(store):
    search(trials=20)
    warm = search(seed=2, warm_start="auto")
    written = mlflow.artifacts.load_text(f"runs:/{warm.run_id}/search.yaml")
    used = yaml.safe_load(written)["warm_start"]
    search(seed=7, trials=20)  # "auto" would take it into account

    again = search(seed=2, warm_start=used)

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


def test_without_a_history_the_search_starts_cold_and_says_so(store, caplog):
    caplog.set_level("INFO")
    study = search(warm_start="auto")

    told = "no history of this metric and space in all experiments, the search starts cold"
    assert f"warm start: {told}" in caplog.text
    assert store.get_run(study.run_id).data.params["hpo.warm_start"] == told
    assert artifact(study, "warm_start.json")["configurations"] == []
    assert not any("hpo.warm_start" in run.data.tags for run in children(store, study).values())
    cold = search()
    assert [each.config for each in cold.optimizer.trials.values()] == [
        each.config for each in study.optimizer.trials.values()
    ]


def test_what_does_not_fit_is_told(store):
    search()
    other = SearchSpace({"z": {"type": "float", "low": 0, "high": 1}})

    assert mined(metric="accuracy", mode="max").skipped == {"studies of another metric": 1}
    assert mined(mode="max").skipped == {"studies of another metric": 1}
    assert mined(space=other).skipped == {"with a parameter that the space does not have": 12}


def test_given_points_are_not_tried_twice_and_leave_room(store):
    first = search(trials=20)
    points = [record.config for record in first.optimizer.trials.values()]

    study = search(seed=2, trials=12, points=points[:11], warm_start="auto")

    assert study.optimizer.trials[11].config not in points[:11]
    assert "hpo.warm_start" in children(store, study)[11].data.tags


def test_a_study_that_failed_leaves_what_it_knew(store):
    with pytest.raises(StudyError, match="max_failures"):
        search(trainings.raises, max_failures=2)

    [task] = mined().tasks
    assert all(trial.failed for trial in task.trials)
    warm = search(seed=3, warm_start="auto")
    assert not any("hpo.warm_start" in run.data.tags for run in children(store, warm).values())


def test_damaged_and_missing_records_are_told(store):
    damaged, short, deep, missing, old = (search(seed=seed) for seed in range(5))
    store.log_text(damaged.run_id, "{not json", HISTORY)
    store.log_text(short.run_id, json.dumps({"schema": 1, "trials": []}), HISTORY)
    store.log_text(deep.run_id, "[" * 200_000, HISTORY)
    location = store.get_run(missing.run_id).info.artifact_uri
    (Path(location.removeprefix("file://")) / HISTORY).unlink()
    store.delete_tag(old.run_id, WRITTEN)

    history = mined()

    assert not history
    assert history.skipped == {
        "studies whose history is damaged": 3,
        "studies whose history cannot be read": 1,
        "studies without a history": 1,
    }


def test_a_store_that_is_away_is_an_error_after_some_studies(store):
    for seed in range(4):
        study = search(seed=seed)
        location = store.get_run(study.run_id).info.artifact_uri
        (Path(location.removeprefix("file://")) / HISTORY).unlink()
    with pytest.raises(StudyError, match=r"artifact store: cannot read history\.json"):
        mined()


def test_a_study_does_not_fail_for_its_history(store, monkeypatch, caplog):
    log_text = Tracker.log_text

    def full_disk(self, path, text):
        if path == HISTORY:
            raise OSError("no space left on device")
        log_text(self, path, text)

    monkeypatch.setattr(Tracker, "log_text", full_disk)
    study = search()
    parent = store.get_run(study.run_id)
    assert parent.info.status == "FINISHED"
    assert WRITTEN not in parent.data.tags
    assert "no history left for later studies: no space left on device" in caplog.text


def test_hostile_trials_are_left_out(store):
    study = search()
    trials = artifact(study, HISTORY)["trials"]
    trials[0]["params"] = {"x": "__import__('os')", "kind": "round"}
    trials[1]["params"] = {"<script>": "1" * 10_000, **trials[1]["params"]}
    trials[2]["curve"] = "many"
    del trials[3]["run_id"]
    trials[4] = None
    trials[5]["params"]["x"] = "1" * 400
    trials[6]["curve"] = [[10**400, 0.5]]
    store.log_text(study.run_id, json.dumps({"schema": 1, "trials": trials}), HISTORY)

    history = mined()

    assert history.trials == 12 - 7
    assert history.skipped == {
        "with a value outside of the space": 2,
        "with a parameter that the space does not have": 1,
        "trials that cannot be read": 4,
    }


def test_a_model_of_the_losses_begins_with_what_earlier_tasks_lead_to_expect(store):
    first = search(trials=40)

    second = search(searcher="auto", scheduler="auto", trials=12, seed=2, warm_start=["test"])

    runs = children(store, second)
    assert second.optimizer.trials[0].config["x"] == pytest.approx(first.best.config["x"], abs=0.1)
    warm = [number for number, run in runs.items() if "hpo.warm_start" in run.data.tags]
    assert 0 in warm
    sources = {run.info.run_id for run in children(store, first).values()}
    for number in warm:
        assert runs[number].data.tags["hpo.warm_start"].split()[-1] in sources
    record = artifact(second, "warm_start.json")
    assert record["studies"] == [first.run_id]
    assert len(record["sha256"]) == 64
    assert "warm_start:\n- runs:/" in mlflow.artifacts.load_text(f"runs:/{second.run_id}/search.yaml")


def write_what_misleads(store):
    """Leave a study whose history says the opposite of what was."""
    search(trials=40, mode="max")
    [written] = [each for each in store.search_experiments() if each.name == "test"]
    [first] = store.search_runs([written.experiment_id], "tags.`hpo.kind` = 'study'")
    known = json.loads(mlflow.artifacts.load_text(f"runs:/{first.info.run_id}/{HISTORY}"))
    for trial in known["trials"]:  # what was bad is said to be good
        trial["curve"] = [[epoch, -value] for epoch, value in trial["curve"]]
    store.log_text(first.info.run_id, json.dumps(known), HISTORY)


def test_a_history_that_misleads_is_told_and_its_trials_are_stopped(store, caplog):
    caplog.set_level("INFO")
    write_what_misleads(store)

    study = search(searcher="auto", scheduler="auto", mode="max", trials=12, seed=2, warm_start=["test"])

    said = store.get_run(study.run_id).data.tags["hpo.warm_start_misled"]
    assert "the history is forgotten" in said
    assert caplog.text.count(f"warm start: {said}") == 1
    assert read_details(study.run_id).misled == said
    given_up = [children(store, study)[trial] for trial in study.optimizer.searcher.given_up]
    assert given_up
    assert {run.info.status for run in given_up} == {"KILLED"}


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_a_portfolio_that_misleads_is_told_and_dropped(store, caplog, searcher):
    caplog.set_level("INFO")
    write_what_misleads(store)

    study = search(searcher=searcher, mode="max", trials=24, seed=2, warm_start=["test"])

    said = store.get_run(study.run_id).data.tags["hpo.warm_start_misled"]
    assert caplog.text.count(f"warm start: {said}") == 1
    warm = [number for number, run in children(store, study).items() if "hpo.warm_start" in run.data.tags]
    assert sorted(warm) == [0, 1, 2]


def test_a_study_that_is_not_there_or_is_none_is_an_error(store):
    study = search()
    trial = children(store, study)[0].info.run_id
    for run_id in (trial, "0" * 32, "../x", ""):
        with pytest.raises(ConfigError, match="warm_start: there is no study 'runs:/"):
            search(warm_start=[f"runs:/{run_id}"])


def test_an_experiment_that_is_not_there_is_an_error_before_anything_starts(store):
    with pytest.raises(ConfigError, match="warm_start: there is no active experiment 'nowhere'"):
        search(warm_start=["nowhere"])
    assert store.get_experiment_by_name("test") is None


def test_infeasible_trials_failed(store):
    study = search(constraints=["seed <= 2147483648"])  # about half of the trials
    infeasible = [not record.feasible for record in study.optimizer.trials.values()]

    [task] = mined().tasks

    assert 0 < sum(infeasible) < 12
    assert [trial.failed for trial in task.trials] == infeasible
    assert [not trial.curve for trial in task.trials] == infeasible


def test_a_training_that_is_known_by_its_name_only_is_another_task_in_another_experiment(store):
    search(experiment="flats")
    search(experiment="offices")
    assert sorted(task.name for task in mined(["flats", "offices"]).tasks) == [
        "trainings.quick in flats", "trainings.quick in offices",
    ]  # fmt: skip
    partial = search(functools.partial(trainings.quick), experiment="partial")
    assert store.get_run(partial.run_id).data.tags["hpo.task"] == "trainings.quick"


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


@pytest.fixture
def searched(store, tmp_path):
    """Two studies of the bundled training, and the search.yaml that they and their commands share."""
    config = tmp_path / "search.yaml"
    config.write_text(
        "space: {learning_rate: {type: float, low: 1.0e-3, high: 1.0e-1, log: true}}\n"
        "searcher: random\nscheduler: full\nmax_resource: 1\ntrials: 3\n"
    )
    for data in ("wine", "breast_cancer"):
        train, keys = bundled_study(str(config), {"data": data, "experiment": f"of {data}"})
        Study(train, **keys).run()
    return config


def asked(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_suggest_and_history_say_what_is_known_and_where_it_comes_from(store, searched):
    lines = asked("suggest", "--config", searched, "--data", "digits", "--top", 2).splitlines()
    assert lines[0] == "6 trials on 2 tasks in all experiments say what to try"
    assert lines[1].startswith("1. learning_rate=0.")
    assert len(lines) == 1 + 2 * 2
    run = store.get_run(lines[2].split("run ")[1])
    assert float(run.data.params["learning_rate"]) == pytest.approx(float(lines[1].split("=")[1]), rel=1e-3)

    told = asked("history", "--config", searched, "--data", "digits", "--history", "of wine")
    assert "3 trials on 1 task in of wine say what to try" in told
    assert "100%      3 trials  wine" in told
    assert "rows" in told

    plain = json.loads(asked("suggest", "--config", searched, "--data", "digits", "--json"))
    assert [len(plain[key]) for key in ("studies", "tasks", "configurations")] == [2, 2, 3]  # the same seed
    assert store.get_experiment_by_name("Default").experiment_id == "0"
    assert not store.search_runs(["0"])  # nothing was written


def test_names_of_others_cannot_steer_the_terminal(store, searched):
    [parent] = store.search_runs(
        [store.get_experiment_by_name("of wine").experiment_id], "tags.`hpo.kind` = 'study'"
    )
    store.set_tag(parent.info.run_id, "hpo.task", "w\x1b]0;pwned\x07ine")
    for command in ("suggest", "history"):
        told = asked(command, "--config", searched, "--data", "digits", "--history", "of wine")
        assert "pwned" in told
        assert "\x1b" not in told


def test_suggest_names_what_is_wrong(store, searched):
    for arguments, message in (
        (("--history", "nowhere"), "there is no active experiment 'nowhere'"),
        (("--data", "nothing.csv"), "nothing.csv"),
    ):
        result = CliRunner().invoke(main, ["suggest", "--config", str(searched), *arguments])
        assert result.exit_code == 2
        assert message in result.output
