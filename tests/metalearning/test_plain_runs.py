"""Runs of scripts that know nothing of this package, as history."""

import math
from functools import partial

import mlflow
import pytest
import trainings
import yaml
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from scripted import ROUND, logged
from small_studies import searched

from mlflow_hpo import ConfigError, History, SearchSpace, Study
from mlflow_hpo.metalearning import mining, plain_listing, plain_runs
from mlflow_hpo.metalearning.cache import FOLDER, Cache
from mlflow_hpo.metalearning.rules import Rules
from mlflow_hpo.metalearning.warm_start import WarmStart

SPACE = SearchSpace(trainings.SPACE)
NAN = float("nan")


def mined(sources=("plain",), metric="loss", mode="min", space=SPACE, **rules):
    return History.from_mlflow(sources, metric=metric, mode=mode, space=space, **rules)


def curves(history):
    return {trial.run_id: trial.curve for task in history.tasks for trial in task.trials}


def plain(history):
    return [
        (task.name, [(each.run_id, each.config, each.curve, each.failed) for each in task.trials])
        for task in history.tasks
    ]


search = partial(searched, max_resource=9, trials=8, seed=2)


@pytest.fixture
def requests(monkeypatch):
    """The runs whose curves were asked for."""
    asked = []
    ask = MlflowClient.get_metric_history

    def counting(self, run_id, key):
        asked.append(run_id)
        return ask(self, run_id, key)

    monkeypatch.setattr(MlflowClient, "get_metric_history", counting)
    return asked


def test_runs_of_a_script_warm_start_a_study_and_its_record_brings_the_same_search(store):
    mlflow.set_experiment("scripts")
    run_ids = []
    for number in range(10):
        with mlflow.start_run() as run:
            params = {"x": number / 5 - 0.9, "kind": "round"}
            mlflow.log_params({**params, "data_path": "/somewhere"})
            for epoch in range(3):
                mlflow.log_metric("loss", trainings.curve(params, epoch + 1), step=epoch)
            run_ids.append(run.info.run_id)

    study = search(warm_start=["scripts"], experiment="test")

    parent = store.get_run(study.run_id)
    [first] = store.search_runs([parent.info.experiment_id], "tags.`hpo.trial` = '0'")
    origin = first.data.tags["hpo.warm_start"]
    assert origin.startswith("plain runs in scripts ")
    assert origin.split()[-1] in run_ids[4:6]  # x = -0.1 and x = 0.1
    assert abs(study.optimizer.trials[0].config["x"]) == pytest.approx(0.1)
    assert parent.data.params["hpo.warm_start"] == "10 trials on 1 task in scripts say what to try"

    recorded = yaml.safe_load(mlflow.artifacts.load_text(f"runs:/{study.run_id}/search.yaml"))["warm_start"]
    assert sorted(recorded) == sorted(f"runs:/{run_id}" for run_id in run_ids)
    logged(store, [(0, -9.0)], {"x": 0.95, "kind": "round"}, experiment="scripts")  # "scripts" has it now
    again = search(warm_start=recorded)
    configs = [[each.config for each in one.optimizer.trials.values()] for one in (study, again)]
    assert configs[0] == configs[1]


def test_runs_of_ours_are_no_plain_runs(store):
    study = search()
    run_id = logged(store, experiment="test")

    history = mined(["test"])

    assert {task.name: len(task.trials) for task in history.tasks} == {
        "trainings.quick in test": 8,
        "plain runs in test": 1,
    }
    assert (history.studies, history.runs) == ((study.run_id,), (run_id,))
    both = [f"runs:/{study.run_id}", f"runs:/{run_id}"]
    assert WarmStart(history, None, {}, None).studies == tuple(both)
    assert plain(mined(both)) == plain(history)
    assert plain(mined([*both, *both, "test"])) == plain(history)  # nothing counts twice
    assert plain(mined(both[:1])) == plain(history)[:1]  # a single study brings no others


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([(1, 0.5), (2, 0.4)], [(1, 0.5), (2, 0.4)]),
        ([(0, 0.5), (1, 0.4)], [(1, 0.5), (2, 0.4)]),
        ([(0, 0.5)], [(1, 0.5)]),
        ([(7, 0.5)], [(7, 0.5)]),
        ([(0, 0.5), (0, 0.3), (0, 0.4)], [(1, 0.4)]),
        ([(1, 0.5), (2, 0.3), (2, 0.4)], [(1, 0.5), (2, 0.4)]),
        ([(3, 0.3), (1, 0.5), (2, 0.4)], [(1, 0.5), (2, 0.4), (3, 0.3)]),
        ([(5, 0.5), (10, 0.4)], [(5, 0.5), (10, 0.4)]),
        ([(-3, 0.5), (-1, 0.4), (1, 0.3)], [(1, 0.5), (3, 0.4), (5, 0.3)]),
        ([(500, 0.5), (1000, 0.4), (1500, 0.3)], [(1, 0.5), (2, 0.4), (3, 0.3)]),
        ([(-(2**62), 0.5), (2**62, 0.4)], [(1, 0.5), (2, 0.4)]),
        ([(1, NAN), (2, math.inf), (3, -math.inf), (4, 0.4)], [(4, 0.4)]),
    ],
)  # fmt: skip
def test_steps_become_epochs(store, values, curve):
    run_id = logged(store, values)
    history = mined()
    assert curves(history) == {run_id: tuple(curve)}
    assert not history.tasks[0].trials[0].failed


def test_the_last_value_of_a_step_is_the_last_by_time(store):
    run_id = logged(store, [(2, 0.1)])
    store.log_metric(run_id, "loss", 0.7, timestamp=500, step=2)  # logged later, but of earlier
    store.log_metric(run_id, "loss", 0.8, timestamp=500, step=1)
    assert curves(mined()) == {run_id: ((1, 0.8), (2, 0.1))}


def test_a_curve_of_very_many_values_is_thinned(store):
    run_id = logged(store, [(epoch, epoch / 1000) for epoch in range(1000)])
    store.log_batch(run_id, [Metric("loss", 2.0, 9000 + step, step) for step in range(1000, 2000)])
    [curve] = curves(mined()).values()
    assert len(curve) == 1000
    assert (curve[0], curve[-1]) == ((1, 0.0), (2000, 2.0))
    assert len({epoch for epoch, _ in curve}) == 1000


def test_a_run_that_steps_unlike_its_task_is_left_out(store):
    usual = [logged(store, [(1, 0.5), (2, 0.4)]) for _ in range(3)]
    logged(store, [(1, 0.5), (10**12, 0.4)])
    history = mined()
    assert sorted(curves(history)) == sorted(usual)
    assert history.skipped == {"plain runs whose epochs are not known": 1}


def test_runs_that_failed_or_diverged_came_to_nothing(store):
    crashed = logged(store, [(1, 0.5)], status="FAILED")
    diverged = logged(store, [(1, 0.5), (2, NAN)])
    infinite = logged(store, [(1, 0.5), (2, math.inf)])
    never = logged(store, [(0, NAN)])
    fine = logged(store, [(1, 0.5), (2, 0.6)])
    logged(store, status="KILLED")
    logged(store, status="RUNNING")
    store.delete_run(logged(store))

    history = mined()

    failed = {trial.run_id: trial.failed for task in history.tasks for trial in task.trials}
    assert failed == {crashed: True, diverged: True, infinite: True, never: True, fine: False}
    assert curves(history)[crashed] == ((1, 0.5),)
    assert curves(history)[infinite] == curves(history)[diverged] == ((1, 0.5),)
    assert curves(history)[never] == ()
    assert history.skipped == {}


@pytest.mark.parametrize("step", [1, 500])  # epochs, and batches
def test_runs_that_failed_when_they_had_been_trained_count_as_any_other(store, step):
    def run(values, status="FINISHED", experiment="plain"):
        steps = [((at + 1) * step, value) for at, value in enumerate(values)]
        return logged(store, steps, status=status, experiment=experiment)

    for _ in range(2):
        run([0.9, 0.8, 0.7])
    run([0.9])  # stopped early
    stopped = run([0.6, 0.5, 0.4], "FAILED")
    went_on = run([0.6, 0.5, 0.4, 0.3], "FAILED")
    diverged = run([0.6, 0.5, NAN], "FAILED")
    crashed = run([0.6, 0.5], "FAILED")
    lonely = run([0.6, 0.5, 0.4], "FAILED", "other")  # nothing tells how long its like are trained

    history = mined(None)

    failed = {trial.run_id for task in history.tasks for trial in task.trials if trial.failed}
    assert failed == {diverged, crashed, lonely}
    assert {stopped, went_on} < set(curves(history))


def test_a_run_that_failed_when_it_had_been_trained_may_be_among_the_best(store, monkeypatch):
    monkeypatch.setattr(plain_runs, "_MOST_OF_TASK", 4)
    for number in range(8):
        logged(store, [(1, 1.0), (2, 0.5 + number / 100)])
    stopped = [logged(store, [(1, 1.0), (2, 0.3 + number / 100)], status="FAILED") for number in range(2)]
    crashed = logged(store, [(1, 0.2)], status="FAILED")

    history = mined()

    failed = {trial.run_id: trial.failed for task in history.tasks for trial in task.trials}
    assert {run_id: failed[run_id] for run_id in stopped} == dict.fromkeys(stopped, False)
    assert failed[crashed]  # of the rest the last
    named = WarmStart(history, None, {}, None).studies
    assert plain(mined(named)) == plain(history)


def test_params_decide_which_runs_are_history(store):
    kept = {
        logged(store, params={**ROUND, "data_path": "/x", "epochs": 3}): ROUND,
        logged(store, params={**ROUND, "slope": 0.5}): ROUND,  # logged, though it is not active
        logged(store, params={**ROUND, "slope": "none"}): ROUND,
        logged(store, params={"x": -1, "kind": "flat", "slope": "5e-1"}): {
            "x": -1.0,
            "kind": "flat",
            "slope": 0.5,
        },
    }
    logged(store, params={"x": 0.5})
    logged(store, params={"x": 0.5, "kind": "flat"})
    logged(store, params={"x": 2, "kind": "round"})
    logged(store, params={"x": "a lot", "kind": "round"})
    logged(store, params={"x": 0.5, "kind": "square"})
    logged(store, params={"alpha": 0.5})  # another kind of run, which nobody asked for
    logged(store, metric="accuracy")

    history = mined()

    assert {each.run_id: each.config for task in history.tasks for each in task.trials} == kept
    assert history.skipped == {
        "without a parameter of the space": 2,
        "with a value outside of the space": 3,
    }
    assert sorted(history.runs) == sorted(kept)
    assert not mined(metric="no `such' metric")
    assert len(mined(None).runs) == 4


def test_hostile_runs_are_left_out(store):
    for x in ("__import__('os').abort()", "9" * 5000, "nan", "x\0", "\U0001f600" * 500, "0x1"):
        logged(store, params={"x": x, "kind": "round"})
    long = "<script>" * 40
    logged(store, params={**ROUND, "y" * 250: "z" * 6000}, experiment=long, data=[("d" * 400, "e" * 30)])
    logged(store, experiment=long)

    history = mined(None)

    assert history.skipped == {"with a value outside of the space": 6}
    assert history.trials == 2
    assert all(len(task.name) < 250 for task in history.tasks)


def test_datasets_are_tasks(store):
    def task(*data, experiment="plain"):
        run_id = logged(store, data=data, experiment=experiment)
        [name] = [each.name for each in mined(None).tasks if run_id in {one.run_id for one in each.trials}]
        return name

    iris = task(("iris", "abc"))
    assert iris == "plain runs on iris@abc"
    assert task(("iris", "abc", "training"), experiment="other") == iris
    assert task(("iris", "abc", "training"), ("held out", "f00", "eval")) == iris
    assert task(("iris", "abd")) == "plain runs on iris@abd"
    assert task(("wine", "1"), ("iris", "abc")) == "plain runs on iris@abc + wine@1"
    assert task() == "plain runs in plain"
    assert task(experiment="other") == "plain runs in other"


@pytest.mark.parametrize("page", [1000, 2])  # all runs in one page, and most of them asked for further
def test_parameters_that_earlier_runs_call_otherwise_are_renamed(store, monkeypatch, page):
    monkeypatch.setattr(plain_listing, "_PAGE", page)
    rename = {"position": "x", "pos": "x", "form": "kind"}
    expected = {
        logged(store, params={"position": 0.5, "form": "round"}): 0.5,
        logged(store, params={"pos": 0.25, "kind": "round"}): 0.25,
        logged(store, params={"x": 0.125, "position": 7, "kind": "round"}): 0.125,  # its own name counts
        logged(store, params={"x": 0.75, "kind": "round"}): 0.75,
    }
    logged(store, params={"position": 2, "form": "round"})
    logged(store, params={"place": 0.5, "kind": "round"})

    history = mined(rename=rename)

    found = {each.run_id: each.config["x"] for task in history.tasks for each in task.trials}
    assert found == expected
    assert history.skipped["with a value outside of the space"] == 1
    assert mined().trials == 2  # another rule is not answered from what was kept for this one


def test_trials_of_studies_are_renamed_too(store):
    study = search()
    position = SearchSpace(
        {"position" if name == "x" else name: each for name, each in trainings.SPACE.items()}
    )

    history = mined(["test"], space=position, rename={"x": "position"})

    assert [each.config["position"] for each in history.tasks[0].trials] == [
        each.config["x"] for each in study.optimizer.trials.values()
    ]
    assert mined(["test"], space=position).trials == 0


def test_what_tells_the_task_of_a_plain_run_can_be_said(store):
    def tasks(rule):
        return {task.name: len(task.trials) for task in mined(None, task=rule).tasks}

    houses = {**ROUND, "path": "houses.csv"}
    logged(store, params=houses, data=[("a", "1")], tags={"city": "Rome"})
    logged(store, params=houses, data=[("b", "2")], experiment="other")
    logged(store, tags={"city": "Rome"})

    assert tasks("param:path") == {"plain runs on path=houses.csv": 2, "plain runs in plain": 1}
    assert tasks("tag:city") == {"plain runs on city=Rome": 2, "plain runs in other": 1}
    assert tasks("experiment") == {"plain runs in plain": 2, "plain runs in other": 1}
    assert tasks("dataset") == {"plain runs on a@1": 1, "plain runs on b@2": 1, "plain runs in plain": 1}


def test_a_study_goes_by_its_rules_also_when_it_is_resumed(store):
    for number in range(5):
        logged(store, params={"position": number / 10, "kind": "round", "path": number % 2})
    rules = {"warm_start_rename": {"position": "x"}, "warm_start_task": "param:path"}

    study = search(warm_start=["plain"], **rules)

    assert {task.name: len(task.trials) for task in study.warm_start.history.tasks} == {
        "plain runs on path=0": 3,
        "plain runs on path=1": 2,
    }
    again = Study(trainings.quick, resume=study.run_id, trials=9)
    again.run()
    known = [[task.trials for task in one.warm_start.history.tasks] for one in (study, again)]
    assert sorted(known[0], key=len) == sorted(known[1], key=len)


def test_a_task_has_no_name_of_a_study(store):
    run_id = logged(store)
    client = MlflowClient()
    with Cache("", None) as cache:
        found = plain_runs.plain_runs(
            client,
            [(client.get_run(run_id), "plain")],
            {},
            metric="loss",
            mode="min",
            space=SPACE,
            rules=Rules(),
            cache=cache,
            taken={"plain runs in plain"},
        )
    assert [record["task"] for record in found.records] == ["plain runs in plain'"]


def test_a_run_that_logs_more_after_its_end_is_read_again(store, monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    run_id = logged(store, [(1, 0.5), (2, 0.4)])
    assert curves(mined())[run_id] == ((1, 0.5), (2, 0.4))
    store.log_metric(run_id, "loss", 0.1, step=3)
    assert curves(mined())[run_id] == ((1, 0.5), (2, 0.4), (3, 0.1))


def test_pages_bring_every_run_once(store, monkeypatch):
    monkeypatch.setattr(plain_listing, "_PAGE", 3)
    run_ids = [logged(store, params={"x": number / 10, "kind": "round"}) for number in range(7)]
    logged(store, params={"x": 0.5})
    logged(store, params={"alpha": 1})

    history = mined()

    assert sorted(curves(history)) == sorted(run_ids)
    assert history.runs == tuple(reversed(run_ids))  # the latest first
    assert history.skipped == {"without a parameter of the space": 1}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_curves_are_asked_of_the_best_and_of_some_others(store, monkeypatch, requests, mode):
    monkeypatch.setattr(plain_runs, "_MOST_CURVES", 4)
    monkeypatch.setattr(plain_runs, "_MOST_OF_TASK", 8)
    run_ids = [logged(store, [(0, 9.0), (1, 5.0), (2, number / 10)]) for number in range(12)]
    if mode == "max":
        run_ids.reverse()  # now the best first

    history = mined(mode=mode)

    assert len(requests) == len(set(requests)) == 4
    assert set(run_ids[:2]) < set(requests)
    assert run_ids[-1] in requests
    assert set(run_ids[:4]) < set(history.runs)
    assert sorted(len(curve) for curve in curves(history).values()) == [1, 1, 1, 1, 3, 3, 3, 3]
    assert {curve[-1][0] for curve in curves(history).values()} == {3}
    assert history.skipped == {"beyond the 8 plain runs of a task": 4}
    # those that are named alone bring the same again, though there are fewer to choose from
    named = WarmStart(history, None, {}, None).studies
    assert plain(mined(named, mode=mode)) == plain(history)


def test_values_beside_curves_that_count_batches_are_left_out(store, monkeypatch):
    monkeypatch.setattr(plain_runs, "_MOST_CURVES", 2)
    for _ in range(3):
        logged(store, [(1000, 0.5), (2000, 0.4)], experiment="curves")
        logged(store, [(2000, 0.4)], experiment="once")

    history = mined(["curves", "once"])

    assert sorted(curves(history).values()) == [
        ((1, 0.4),), ((1, 0.4),), ((1, 0.4),), ((1, 0.5), (2, 0.4)), ((1, 0.5), (2, 0.4)),
    ]  # fmt: skip
    assert history.skipped == {"plain runs whose epochs are not known": 1}
    assert len(history.runs) == 6  # with the one left out: without it, others would be chosen
    named = WarmStart(history, None, {}, None).studies
    assert plain(mined(named)) == plain(history)


def test_a_metric_without_steps_costs_no_request(store, requests):
    run_id = logged(store, [(0, 0.5)])
    assert curves(mined()) == {run_id: ((1, 0.5),)}
    assert requests == []


def test_there_are_limits_of_tasks_and_of_runs_in_all(store, monkeypatch):
    monkeypatch.setattr(plain_runs, "_MOST_TASKS", 2)
    monkeypatch.setattr(plain_runs, "_MOST", 4)
    for digest in ("first", "second", "third"):
        for number in range(3):
            logged(store, [(0, float(number))], data=[("d", digest)])

    history = mined()

    assert {task.name: len(task.trials) for task in history.tasks} == {
        "plain runs on d@third": 2,
        "plain runs on d@second": 2,
    }
    assert history.skipped == {
        "beyond the 2 plain runs of a task": 2,
        "beyond the 2 latest tasks of plain runs": 3,
    }


def test_only_runs_that_ended_with_the_metric_can_be_named(store):
    others = [
        logged(store, status="RUNNING"),
        logged(store, metric="accuracy"),
        logged(store, tags={"hpo.kind": "trial"}),
    ]
    for run_id in others:
        with pytest.raises(
            ConfigError, match=f"warm_start: there is no study 'runs:/{run_id}', nor such a run"
        ):
            mined([f"runs:/{run_id}"])


@pytest.mark.parametrize("number", [1, 5])  # one by one, and in one request
def test_named_runs_are_looked_up(store, number, monkeypatch):
    run_ids = [logged(store) for _ in range(number)]
    store.delete_run(run_ids[0])
    sources = [f"runs:/{run_id}" for run_id in run_ids]
    alone = []
    get_run = MlflowClient.get_run

    def counting(self, run_id):
        alone.append(run_id)
        return get_run(self, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", counting)

    history = mined(sources)

    assert alone == run_ids[:1]  # which is not found among the active ones
    assert history.runs == tuple(run_ids)
    assert [task.name for task in history.tasks] == ["plain runs in plain"]
    where = f"{number} named run{'s' * (number > 1)}"
    assert f"in {where} say what to try" in str(WarmStart(history, None, {}, tuple(sources)))
    with pytest.raises(ConfigError, match="there is no study 'runs:/nothing'"):
        mined([*sources, "runs:/nothing"])


def test_what_is_kept_is_not_taken_for_a_store_of_the_same_name_elsewhere(store, tmp_path, monkeypatch):
    store.create_experiment("plain")
    asked = []

    class Spy(Cache):
        def __init__(self, uri, folder):
            asked.append(uri)
            super().__init__(uri, folder)

    monkeypatch.setattr(mining, "Cache", Spy)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    for folder in (tmp_path, tmp_path / "elsewhere"):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        mined()
    assert asked == [f"sqlite:///{tmp_path / name}" for name in ("mlflow.db", "elsewhere/mlflow.db")]
