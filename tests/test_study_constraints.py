"""A study whose trials must keep constraints on other metrics than the optimised one."""

import csv
import json
from pathlib import Path

import mlflow
import pytest
import trainings
import yaml

from mlflow_hpo import ConfigError, Study, StudyError
from mlflow_hpo.reports.text import ending, states
from mlflow_hpo.tracking.curves import written_curves
from mlflow_hpo.tracking.reader import read_study
from mlflow_hpo.training.bundled import BundledTraining

LATENCY = ["latency_ms <= 20"]
HALVING = {"name": "successive_halving", "eta": 3}


class Listener:
    """Notes down what it is told."""

    def __init__(self):
        self.told = []

    def started(self, summary):
        self.summary = summary

    def happened(self, message):
        self.told.append(message)

    def ticked(self):
        pass

    def ended(self):
        self.end = ending(self.summary())


def make(train, listener=None, **keys):
    defaults = {"metric": "loss", "mode": "min", "searcher": "random", "scheduler": "full", "max_resource": 2,
                "trials": 8, "seed": 1, "constraints": LATENCY}  # fmt: skip
    return Study(train, trainings.SPACE, listener=listener, **(defaults | keys))


def search(train, **keys):
    study = make(train, **keys)
    study.run()
    return study


def children(store, study):
    experiment = store.get_run(study.run_id).info.experiment_id
    runs = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    return {int(run.data.tags["hpo.trial"]): run for run in runs}


def slow_trials(study):
    """The trials of `better_but_slower` that are slower than 20 milliseconds."""
    return {i for i, record in study.optimizer.trials.items() if record.config["x"] > 0}


def checkpoints(store, run):
    return [int(info.path[18:22]) for info in store.list_artifacts(run.info.run_id, "checkpoints")]


def test_infeasible_trials_are_tagged_and_never_the_best(store):
    study = search(trainings.better_but_slower, seed=2, workers=2)
    slow, runs = slow_trials(study), children(store, study)
    assert len(slow) == 5
    for trial_id, run in runs.items():
        tags, metrics, x = run.data.tags, run.data.metrics, float(run.data.params["x"])
        assert run.info.status == "FINISHED"
        if trial_id in slow:
            assert tags["hpo.infeasible"] == f"latency_ms = {20 + 10 * x:.6g}, must be <= 20"
            assert metrics["loss"] < study.best.value, "better, were it not for the constraint"
            assert {"best_loss", "hpo.best_epoch"}.isdisjoint(metrics | tags)
        else:
            assert "hpo.infeasible" not in tags
            assert metrics["loss"] == metrics["best_loss"] >= study.best.value
        assert bool(checkpoints(store, run)) == (trial_id == study.best.trial_id)
    assert study.best.trial_id not in slow
    parent = store.get_run(study.run_id)
    assert (parent.info.status, parent.data.tags["hpo.best_trial"]) == ("FINISHED", str(study.best.trial_id))
    assert parent.data.metrics["best_loss"] == study.best.value
    assert parent.data.metrics["trials_infeasible"] == len(slow)
    assert f"{len(slow)} of the trials are infeasible" in parent.data.tags["mlflow.note.content"]


def test_constraints_and_infeasible_trials_read_back(store, tmp_path):
    listener = Listener()
    study = search(trainings.better_but_slower, listener=listener, seed=2)
    slow, runs = slow_trials(study), children(store, study)
    assert json.loads(store.get_run(study.run_id).data.params["hpo.constraints"]) == LATENCY
    folder = Path(mlflow.artifacts.download_artifacts(run_id=study.run_id, dst_path=str(tmp_path / "got")))
    assert yaml.safe_load((folder / "search.yaml").read_text())["constraints"] == LATENCY
    with (folder / "trials.csv").open(newline="") as file:
        table = {int(row["trial"]): row["infeasible"] for row in csv.DictReader(file)}
    assert table == {trial_id: run.data.tags.get("hpo.infeasible", "") for trial_id, run in runs.items()}
    ours, read = study.summary(), read_study(study.run_id)
    assert [trial.infeasible for trial in read.trials] == [trial.infeasible for trial in ours.trials]
    assert states(read) == states(ours) == "8 fully trained (infeasible: 5)"
    assert {trial.trial_id for trial in read.ranked()} == {*runs} - slow
    assert f"trial {study.best.trial_id} " in listener.end[2]
    told = {line for line in listener.told if "(infeasible: latency_ms = " in line}
    assert {int(line.split()[1].rstrip(":")) for line in told} == slow
    query = "tags.`hpo.infeasible` != ''"  # as the guide says
    found = store.search_runs([store.get_run(study.run_id).info.experiment_id], query)
    assert {int(run.data.tags["hpo.trial"]) for run in found} == slow


def test_infeasible_trials_are_not_promoted_and_a_value_once_reported_holds(store):
    study = search(
        trainings.better_but_slower, scheduler=HALVING, max_resource=9, trials=9, seed=2, workers=2
    )
    slow, runs = slow_trials(study), children(store, study)
    assert len(slow) == 5
    assert {runs[trial_id].data.tags["hpo.epochs"] for trial_id in slow} == {"1"}
    assert {runs[trial_id].info.status for trial_id in slow} == {"KILLED"}
    [winner] = [trial_id for trial_id, run in runs.items() if run.info.status == "FINISHED"]
    assert winner == study.best.trial_id not in slow
    assert study.best.resource == 9
    assert len(store.get_metric_history(runs[winner].info.run_id, "latency_ms")) == 1


def test_a_trial_may_become_feasible_and_infeasible_again(store):
    constraints = ["recall >= 0.9", "size < 2"]
    study = search(trainings.recall_rises, trials=1, max_resource=4, constraints=constraints)
    [run] = children(store, study).values()
    assert run.data.tags["hpo.infeasible"] == ""
    assert study.best.resource == 4
    assert [m.step for m in store.get_metric_history(run.info.run_id, "best_loss")] == [3, 4]

    study = search(trainings.recall_rises, trials=1, max_resource=9, constraints=constraints)
    [run] = children(store, study).values()
    assert run.data.tags["hpo.infeasible"] == "size = nan, must be < 2", "NaN keeps no bound"
    assert run.data.tags["hpo.best_epoch"] == "4"
    assert (study.best.resource, study.best.value) == (4, 0.25)
    assert 4 in checkpoints(store, run)


def test_without_a_feasible_trial_the_end_says_so(store):
    listener = Listener()
    constraints = ["latency_ms <= 5", "latency_ms > 1", "loss_gap >= 0"]
    study = make(trainings.gap_and_latency, listener, constraints=constraints, trials=6)
    with pytest.raises(StudyError) as caught:
        study.run()
    gaps = sum(record.config["x"] < 0 for record in study.optimizer.trials.values())
    line = (
        "no feasible trial reported a finite loss; 6 of 6 trials are infeasible: "
        f"6 break latency_ms <= 5, {gaps} break loss_gap >= 0"
    )
    assert str(caught.value) == line
    parent = store.get_run(study.run_id)
    assert (parent.info.status, parent.data.tags["hpo.stop_reason"]) == ("FAILED", line)
    assert {run.info.status for run in children(store, study).values()} == {"FINISHED"}
    assert "6 fully trained (infeasible: 6)" in listener.end[0]
    assert listener.end[1] == f"ended because: {line}"


def test_what_is_never_reported_fails_the_trial_and_is_told_once(store):
    listener = Listener()
    study = make(trainings.quick, listener, max_failures=3)
    reason = "constraints: the training reported no 'latency_ms', only loss, seed"
    with pytest.raises(StudyError, match=f"max_failures: 3 trials failed .* the last one with: {reason}"):
        study.run()
    assert listener.told.count(f"trial 0: {reason}; it is infeasible until it does") == 1
    assert sum("until it does" in line for line in listener.told) == 1
    runs = children(store, study)
    assert {(run.info.status, run.data.tags["hpo.stop_reason"]) for run in runs.values()} == {
        ("FAILED", reason)
    }
    assert study.summary().count_infeasible() == 0, "they failed"


def test_without_a_listener_the_absence_is_a_warning_of_the_log(store, caplog):
    with caplog.at_level("WARNING", logger="mlflow_hpo.study"):
        search(trainings.latency_at_the_end, trials=3, max_resource=3)
    assert caplog.messages == [
        "trial 0: constraints: the training reported no 'latency_ms', only loss; "
        "it is infeasible until it does"
    ]


def test_a_metric_may_come_late_but_nothing_before_it_is_the_best(store):
    study = search(trainings.latency_at_the_end, trials=6, max_resource=3, goal=0.7)
    runs = children(store, study)
    assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
    assert study.best.resource == 3
    for run in runs.values():
        bests = store.get_metric_history(run.info.run_id, "best_loss")
        assert [m.step for m in bests] == ([3] if float(run.data.params["x"]) <= 0 else [])


def test_a_trial_that_the_goal_ends_may_have_had_the_metric_still_to_come(store):
    study = search(
        trainings.one_is_late, points=[{"x": 0.0, "kind": "round"}, {"x": 0.5, "kind": "round"}],
        trials=2, workers=2, max_resource=500, goal=0.5,
    )  # fmt: skip
    runs = children(store, study)
    assert study.best.trial_id == 0
    assert runs[1].info.status == "KILLED"
    assert runs[1].data.tags["hpo.infeasible"] == "latency_ms is not reported, must be <= 20"


def test_infeasible_trials_count_as_trials_that_succeeded(store):
    points = [{"x": -0.5, "kind": "round"}, {"x": 0.5, "kind": "round"}, {"x": -0.2, "kind": "round"}]
    study = make(trainings.raises_or_is_slow, max_resource=1, max_failures=1, trials=3, points=points)
    line = (
        "no feasible trial reported a finite loss; 2 of 3 trials are infeasible: 2 break latency_ms <= 20; "
        "the last failure: ValueError: x is positive"
    )
    with pytest.raises(StudyError) as caught:
        study.run()
    assert str(caught.value) == line


def test_a_searcher_learns_to_keep_the_constraints(store):
    def infeasible(searcher):
        study = search(
            trainings.better_but_slower, searcher=searcher, max_resource=1, trials=40,
            constraints=["latency_ms <= 16"],
        )  # fmt: skip
        later = [run for trial_id, run in children(store, study).items() if trial_id >= 20]
        return sum("hpo.infeasible" in run.data.tags for run in later)

    assert infeasible({"name": "tpe", "n_startup": 8}) <= 12 < 15 <= infeasible("random")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"constraints": ["latency_ms = 20"]}, r"constraints\[0\]: must be a metric, one of <=, >=, <, >"),
        ({"constraints": "latency_ms <= 20"}, r"constraints: must be a list such as"),
        ({"constraints": ["a < 1", "loss < 1"]}, r"constraints\[1\]: must be on another metric than the one"),
    ],
)
def test_wrong_constraints_are_told_before_anything_is_launched(store, keys, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        make(trainings.quick, **keys)
    assert store.get_experiment_by_name("test") is None


def test_constraints_must_be_on_what_the_bundled_training_logs():
    keys = {"metric": "val_accuracy", "mode": "max", "max_resource": 1}
    space = {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1}}
    train = BundledTraining("wine")
    assert Study(train, space, constraints=["epoch_seconds < 9"], **keys).config.constraints
    with pytest.raises(ConfigError) as caught:
        Study(train, space, constraints=["epoch_seconds < 9", "latency_ms < 9"], **keys)
    assert str(caught.value).startswith(
        "constraints[1]: must be on a metric that the training logs (epoch_seconds, samples_per_second, "
    )
    assert str(caught.value).endswith("got 'latency_ms < 9'")


def test_another_search_keeps_the_epochs_that_were_feasible(store):
    def slower_and_slower(trial):
        for epoch in trial.epochs():
            trial.report(epoch, loss=1.0 / epoch, latency_ms=5.0 + 10 * epoch)

    study = search(slower_and_slower, trials=3)
    before = written_curves(study.run_id)
    assert [list(epochs) for (epochs, _), _ in before.values()] == [[1]] * 3
    Study(slower_and_slower, resume=study.run_id, searcher="sobol", trials=4).run()
    after = written_curves(study.run_id)
    assert len(after) == 4
    assert {run_id: after[run_id] for run_id in before} == before
