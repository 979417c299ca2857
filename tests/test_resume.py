"""A study that goes on: after a kill, with other settings, on another's run."""

import contextlib
import json
import os
import random
import signal
import time

import mlflow
import numpy as np
import pytest
import trainings
from click.testing import CliRunner
from crashes import Driver, searched_with_kills, told, wait_until_running

from mlflow_hpo import ConfigError, Decision, Optimizer, SearchSpace, Study, StudyError, tune
from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.cli import main
from mlflow_hpo.launchers import LAUNCHERS
from mlflow_hpo.launchers.local import LocalLauncher
from mlflow_hpo.recording import Reports
from mlflow_hpo.seeds import trial_seed
from mlflow_hpo.tracking import lease
from mlflow_hpo.tracking.reader import read_study
from mlflow_hpo.tracking.recovery import read_recording
from mlflow_hpo.tracking.runs import trial_runs

KEYS = {
    "metric": "loss",
    "mode": "min",
    "searcher": {"name": "tpe", "n_startup": 5},
    "scheduler": "asha",
    "max_resource": 9,
    "trials": 12,
    "seed": 3,
}


def search(train=trainings.with_checkpoints, **keys):
    study = Study(train, trainings.SPACE, **(KEYS | keys))
    study.run()
    return study


def go_on(run_id, train=trainings.with_checkpoints, **keys):
    study = Study(train, resume=run_id, **keys)
    study.run()
    return study


@pytest.mark.parametrize(
    "searcher", [pytest.param("random", marks=pytest.mark.full_size), "tpe", "freeze_thaw"]
)
def test_a_study_with_more_budget_is_the_one_that_always_had_it(store, searcher):
    scheduler = "freeze_thaw" if searcher == "freeze_thaw" else "asha"
    spec = {"name": "tpe", "n_startup": 5} if searcher == "tpe" else searcher
    keys = {"searcher": spec, "scheduler": scheduler}
    whole = search(**keys)
    part = search(budget={"epochs": 11}, **keys)
    assert store.get_run(part.run_id).data.tags["hpo.stop_reason"] == "budget of 11 epochs is spent"
    resumed = go_on(part.run_id, budget={"epochs": 1000})
    assert resumed.run_id == part.run_id
    assert told(store, part.run_id) == told(store, whole.run_id)
    assert resumed.best == whole.best
    parent = store.get_run(part.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hpo.stop_reason"] == ""
    assert parent.data.tags["hpo.resumes"] == "1"
    spent = parent.data.metrics["epochs_spent"]
    assert spent == store.get_run(whole.run_id).data.metrics["epochs_spent"]
    steps = [point.step for point in store.get_metric_history(part.run_id, "trials_done")]
    assert steps == list(range(len(steps)))
    assert json.loads(parent.data.tags["hpo.changed"]) == {"budget": {"epochs": 1000}}
    text = mlflow.artifacts.load_text(f"runs:/{part.run_id}/resumed/001/search.yaml")
    assert "epochs: 1000" in text


def test_a_finished_study_goes_on_with_more_trials(store):
    study = search()
    resumed = go_on(study.run_id, trials=20, workers=2)
    trials = told(store, study.run_id)
    assert sorted(trials) == list(range(20))
    assert {status for _, status, _, _ in trials.values()} <= {"FINISHED", "KILLED"}
    assert (resumed.summary().trials_planned, read_study(study.run_id).trials_planned) == (20, 20)
    rows = mlflow.load_table("trials.json", run_ids=[study.run_id])
    assert sorted(rows["trial"]) == list(range(20))


def test_a_finished_study_that_has_nothing_left_to_do_stays_as_it_is(store):
    study = search()
    before = told(store, study.run_id)
    resumed = go_on(study.run_id)
    assert resumed.best == study.best
    assert told(store, study.run_id) == before
    assert store.get_run(study.run_id).info.status == "FINISHED"


def test_another_search_begins_the_trials_that_a_kill_left_without_run_or_params(store):
    study = search(trials=6)
    parent = store.get_run(study.run_id)
    runs = {int(run.data.tags["hpo.trial"]): run for run in trial_runs(store, parent)}
    store.delete_run(runs[2].info.run_id)  # as if it had not been created when the driver was killed
    tags = {**runs[5].data.tags, "hpo.trial": "7", "hpo.seed": "1"}
    empty = store.create_run(parent.info.experiment_id, tags=tags)
    before = told(store, study.run_id)
    go_on(study.run_id, searcher="random", scheduler="full", trials=8, seed=4)
    after = told(store, study.run_id)
    assert sorted(after) == list(range(8))
    assert all(after[trial] == before[trial] for trial in (0, 1, 3, 4, 5))
    assert all(after[trial][1] == "FINISHED" for trial in (2, 6, 7))
    assert store.get_run(empty.info.run_id).data.tags["hpo.seed"] == str(trial_seed(4, 7))
    go_on(study.run_id, trials=9)
    again = told(store, study.run_id)
    assert {trial: again[trial] for trial in after} == after
    assert sorted(again) == list(range(9))


def test_settings_too_long_for_a_tag_are_told_by_where_they_stand(store):
    study = search(trials=3)
    points = [SearchSpace(trainings.SPACE).sample(np.random.default_rng(each)) for each in range(300)]
    go_on(study.run_id, points=points, trials=4)
    tags = store.get_run(study.run_id).data.tags
    assert json.loads(tags["hpo.changed"]) == {"trials": 4, "points": "see resumed/001/search.yaml"}
    assert read_study(study.run_id).trials[3].params == points[0]
    go_on(study.run_id, trials=5)
    assert read_study(study.run_id).trials[4].params == points[1]


def test_failed_trials_are_remembered_and_not_tried_again(store):
    keys = {"searcher": "random", "scheduler": "full", "max_resource": 2, "trials": 10}
    whole = search(trainings.raises_for_positive, **keys)
    part = search(trainings.raises_for_positive, budget={"epochs": 5}, **keys)
    go_on(part.run_id, trainings.raises_for_positive, budget={"epochs": 1000})
    assert told(store, part.run_id) == told(store, whole.run_id)
    assert "FAILED" in {status for _, status, _, _ in told(store, part.run_id).values()}


def test_odd_values_and_constraints_are_read_back_as_they_were(store):
    keys = {"searcher": "tpe", "scheduler": "asha", "constraints": ["length <= 4"], "workers": 1}
    whole = search(**keys)
    part = search(budget={"epochs": 13}, **keys)
    go_on(part.run_id, budget={"epochs": 1000})
    assert told(store, part.run_id) == told(store, whole.run_id)

    keys = {"searcher": "random", "scheduler": "asha"}
    whole = search(trainings.nan_for_positive, **keys)
    part = search(trainings.nan_for_positive, budget={"epochs": 7}, **keys)
    resumed = go_on(part.run_id, trainings.nan_for_positive, budget={"epochs": 1000})
    # NaN is not equal to itself
    assert str(told(store, part.run_id)) == str(told(store, whole.run_id))
    assert resumed.best == whole.best


def test_another_search_learns_from_the_trials_so_far(store):
    study = search(trials=6)
    before = told(store, study.run_id)
    resumed = go_on(study.run_id, searcher="random", scheduler="full", trials=9)
    after = told(store, study.run_id)
    assert sorted(after) == list(range(9))
    assert {trial: after[trial] for trial in before} == before
    assert all(after[trial][1] == "FINISHED" for trial in (6, 7, 8))
    again = go_on(study.run_id, trials=10)
    assert sorted(told(store, study.run_id)) == list(range(10))
    assert again.best.value <= resumed.best.value
    assert read_study(study.run_id).scheduler == "full"


class Bundled:
    """Says what data it is about."""

    metrics = frozenset({"loss", "length"})

    def __init__(self, data):
        self.data = data

    def __call__(self, trial): ...

    def prepare(self): ...

    def check_params(self, space): ...

    def describe(self):
        return {"data": self.data}

    def log_model(self, checkpoint, params, *, registered_model_name): ...


def test_what_must_not_change_is_refused_with_what_differs(store):
    study = search(trials=2, max_resource=1, scheduler="full")
    other = {**trainings.SPACE, "x": {"type": "float", "low": -2.0, "high": 1.0}}
    del other["slope"]
    with pytest.raises(ConfigError, match=r"space: must be that of .*x was .*-1.0.*; slope is missing"):
        Study(trainings.with_checkpoints, other, resume=study.run_id)
    with pytest.raises(ConfigError, match=r"metric: must be as in"):
        Study(trainings.with_checkpoints, resume=study.run_id, metric="length", mode="max")
    wine = Bundled("wine")
    with pytest.raises(ConfigError, match=r"resume: the study is about 'trainings.with_.*', got 'wine'"):
        Study(wine, resume=study.run_id)
    with pytest.raises(ConfigError, match="resume: no such run"):
        Study(trainings.quick, resume="0" * 32)
    plain = store.create_run(store.get_run(study.run_id).info.experiment_id)
    with pytest.raises(ConfigError, match="is not the parent run of a study"):
        Study(trainings.quick, resume=plain.info.run_id)


def test_a_second_driver_is_refused_until_the_first_is_gone(store, tmp_path):
    first = Driver(
        tmp_path, "slow", "metric='loss', mode='min', max_resource=9, trials=40, searcher='random'"
    )
    try:
        run_id = wait_until_running(store, "test")
        second = Study(trainings.slow, resume=run_id)
        with pytest.raises(StudyError, match=rf"driven by process {first.process.pid} on .*--take-over"):
            second.run()
        assert first.process.poll() is None
        first.process.send_signal(signal.SIGINT)
        first.process.wait(60)
    finally:
        first.kill()
    statuses = {status for _, status, _, _ in told(store, run_id).values()}
    assert store.get_run(run_id).info.status == "KILLED"
    assert "RUNNING" not in statuses
    assert go_on(run_id, trainings.slow, trials=3, budget={"epochs": 10_000}).run_id == run_id


def test_a_driver_that_was_taken_over_lets_go(store, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.tracking.lease.RENEWAL", 0.5)

    def steal(summary):
        time.sleep(1.5)  # by then the study has written itself down
        thief = json.dumps({"id": "thief", "host": "elsewhere", "pid": 1, "until": 1e12})
        store.set_tag(summary().run_id, "hpo.driver", thief)

    class Thief:
        started = staticmethod(steal)

        def happened(self, message): ...

        def ticked(self): ...

        def ended(self): ...

    study = Study(trainings.slow, trainings.SPACE, listener=Thief(), **(KEYS | {"trials": 40}))
    with pytest.raises(StudyError, match="was taken over by process 1 on elsewhere"):
        study.run()
    run = store.get_run(study.run_id)
    assert json.loads(run.data.tags["hpo.driver"])["id"] == "thief"
    assert run.info.status == "RUNNING"


def test_the_lease_is_kept_however_long_the_end_takes(store, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 0.3)
    monkeypatch.setattr(lease, "TERM", 2.0)
    clear = Bookkeeper.clear_checkpoints
    left = []

    def slowly(books):
        time.sleep(4.0)
        tag = store.get_run(study.run_id).data.tags["hpo.driver"]
        left.append(json.loads(tag)["until"] - time.time())
        clear(books)

    monkeypatch.setattr(Bookkeeper, "clear_checkpoints", slowly)
    study = Study(trainings.with_checkpoints, trainings.SPACE, **KEYS)
    study.run()
    assert left[0] > 0
    assert store.get_run(study.run_id).data.tags["hpo.driver"] == ""


def test_a_study_cannot_have_fewer_trials_than_it_has_begun(store):
    study = search(trials=4)
    best = store.get_run(study.run_id).data.tags["hpo.best_trial"]
    with pytest.raises(ConfigError, match="^trials: must be at least 4, which the study has begun, got 2$"):
        go_on(study.run_id, trials=2)
    assert store.get_run(study.run_id).data.tags["hpo.best_trial"] == best
    go_on(study.run_id, trials=4)


def test_with_shorter_trainings_what_was_stopped_stays_so(store):
    def ends(study):
        runs = trial_runs(store, store.get_run(study.run_id))
        return {run.info.run_id: (run.info.status, run.data.tags.get("hpo.stop_reason")) for run in runs}

    study = search(scheduler="successive_halving")
    before = ends(study)
    assert "KILLED" in {status for status, _ in before.values()}
    go_on(study.run_id, max_resource=3, trials=14)
    assert before.items() <= ends(study).items()


def test_what_is_recorded_is_told_and_not_what_is_to_come(store, caplog):
    study = search(trials=3, searcher="random", scheduler="full")
    caplog.set_level("INFO")
    go_on(study.run_id, trials=6)
    [told] = [message for message in caplog.messages if message.startswith("resumed: ")]
    assert told == "resumed: it has 3 trials with 27 epochs, and goes on"


def test_nothing_is_removed_once_another_driver_has_the_study(store, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 0.3)
    best_found = Bookkeeper.best_found
    cleared = []

    def slowly(books, best):
        thief = json.dumps({"id": "thief", "host": "elsewhere", "pid": 1, "until": 1e12})
        with contextlib.suppress(lease.LeaseLostError):
            while True:  # a renewal that is on its way may come after it
                store.set_tag(study.run_id, "hpo.driver", thief)
                time.sleep(0.5)
                study._tracker.check_lease()
        best_found(books, best)

    monkeypatch.setattr(Bookkeeper, "best_found", slowly)
    monkeypatch.setattr(Bookkeeper, "clear_checkpoints", cleared.append)
    study = Study(trainings.with_checkpoints, trainings.SPACE, **KEYS)
    with pytest.raises(StudyError, match="was taken over by process 1 on elsewhere"):
        study.run()
    assert not cleared
    assert store.get_run(study.run_id).info.status == "RUNNING"


def test_the_run_that_mlflow_made_for_resuming_is_linked_and_ends_as_the_study_does(store, monkeypatch):
    study = search(budget={"epochs": 5})
    where = store.get_run(study.run_id).info.experiment_id
    invocation = store.create_run(where).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", invocation)
    go_on(study.run_id, budget={"epochs": 1000})
    assert "MLFLOW_RUN_ID" not in os.environ
    run = store.get_run(invocation)
    assert (run.info.status, run.data.tags["hpo.kind"], run.data.tags["hpo.study"]) == (
        "FINISHED", "resume", study.run_id
    )  # fmt: skip
    studies = store.search_runs([where], "tags.`hpo.kind` = 'study'")
    assert [each.info.run_id for each in studies] == [study.run_id]
    # resuming by the run of an earlier resume means the same study
    assert go_on(invocation).run_id == study.run_id


def test_of_two_empty_runs_of_a_trial_one_is_left(store):
    part = search(budget={"epochs": 5})
    parent = store.get_run(part.run_id)
    trial = len(told(store, part.run_id))
    tags = {"mlflow.parentRunId": part.run_id, "hpo.kind": "trial", "hpo.trial": str(trial)}
    for _ in range(2):  # as where the answer to a creation got lost
        store.create_run(parent.info.experiment_id, start_time=parent.info.start_time, tags=tags)
    go_on(part.run_id, budget={"epochs": 1000})
    trials = told(store, part.run_id)  # sees to it that none has two
    assert sorted(trials) == list(range(12))
    assert "RUNNING" not in {status for _, status, _, _ in trials.values()}


def test_tune_takes_it_too(store):
    study = search(budget={"epochs": 5})
    best = tune(trainings.with_checkpoints, resume=study.run_id, budget={"epochs": 1000})
    assert best.value <= study.best.value


def test_crashes_leave_no_trace_with_one_worker(store, tmp_path, request):
    trials, kills = (60, 100) if request.config.getoption("full_size") else (12, 3)
    keys = KEYS | {"trials": trials, "scheduler": {"name": "hyperband", "eta": 3}}
    whole = Study(trainings.paced, trainings.SPACE, **keys, experiment="whole")
    whole.run()
    text = ", ".join(f"{name}={value!r}" for name, value in keys.items())
    run_id, killed = searched_with_kills(store, tmp_path, "killed", "paced", text, kills=kills, seed=1)
    print(f"killed {killed} times")
    assert killed >= kills // 2
    assert told(store, run_id) == told(store, whole.run_id)
    assert store.get_run(run_id).data.tags["hpo.best_trial"] == str(whole.best.trial_id)


def test_crashes_lose_and_double_nothing_with_four_workers(store, tmp_path, request, monkeypatch):
    trials, kills, pace = (60, 20, 0.6) if request.config.getoption("full_size") else (12, 3, 0.2)
    monkeypatch.setenv("EPOCH_SECONDS", str(pace))
    keys = KEYS | {"trials": trials, "workers": 4}
    text = ", ".join(f"{name}={value!r}" for name, value in keys.items())
    run_id, killed = searched_with_kills(
        store, tmp_path, "killed", "timed", text, kills=kills, seed=2, begin=2.5, longest=6.0
    )
    print(f"killed {killed} times")
    assert killed >= kills // 2
    found = told(store, run_id)
    assert sorted(found) == list(range(trials))
    for params, status, tags, points in found.values():
        assert status in ("FINISHED", "KILLED")
        steps = [step for step, _ in points["loss"]]
        assert sorted(steps) == list(range(1, max(steps) + 1))
        assert int(tags["hpo.epochs"]) == max(steps)
        config = {name: float(value) if name != "kind" else value for name, value in params.items()}
        assert dict(points["loss"]) == {step: trainings.curve(config, step) for step in steps}


def test_a_study_that_is_taken_over_goes_on_from_what_its_driver_did_last(store, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 2.0)
    monkeypatch.setenv("EPOCH_SECONDS", "0.2")
    first = Study(trainings.timed, trainings.SPACE, **KEYS, experiment="taken")
    first.start()
    wait_until_running(store, "taken")
    second = Study(trainings.timed, resume=first.run_id, take_over=True)  # reads what there is now

    best = second.run()

    with pytest.raises(StudyError, match="was taken over by process"):
        first.wait()
    found = told(store, first.run_id)  # sees to it that none has two runs
    assert sorted(found) == list(range(KEYS["trials"]))
    assert {status for _, status, _, _ in found.values()} <= {"FINISHED", "KILLED"}
    assert len(first.optimizer.trials) > 1, "it did nothing meanwhile"
    assert best.value == min(loss for *_, points in found.values() for _, loss in points["loss"])


class LateLauncher(LocalLauncher):
    """Has no slot for anybody until it was waited for, as a cluster has whose nodes are still to come."""

    waited = False

    @property
    def free_slot(self):
        return super().free_slot if self.waited else None

    def wait(self, timeout):
        self.waited = True
        return super().wait(timeout)


def test_running_trials_go_on_where_slots_come_later(store, monkeypatch):
    monkeypatch.setitem(LAUNCHERS._builtin, "late", LateLauncher)
    whole = search()
    part = search(budget={"epochs": 5}, max_resource=9)
    assert "SCHEDULED" in {status for _, status, _, _ in told(store, part.run_id).values()}
    resumed = go_on(part.run_id, budget={"epochs": 1000}, launcher="late")
    assert told(store, part.run_id) == told(store, whole.run_id)
    assert resumed.summary().epochs == whole.summary().epochs


@pytest.mark.parametrize("seed", range(2))
def test_what_was_done_counts_where_the_order_is_not_known(store, seed):
    study = search(workers=2)
    before = told(store, study.run_id)
    recording = read_recording(study.run_id)
    mixed = random.Random(seed)
    for trial in recording.trials.values():  # as if clocks of several machines disagreed
        reports = trial.reports
        late = mixed.uniform(0.0, 100.0)
        losses = [report.metrics["loss"] for report in reports]
        trial.reports = Reports(
            [report.epoch for report in reports], [report.time + late for report in reports], {"loss": losses}
        )
    resumed = go_on(recording, workers=4)
    assert resumed.best.value <= study.best.value
    after = told(store, study.run_id)
    for trial_id, (params, _, tags, points) in after.items():
        assert params == before[trial_id][0]
        assert points["loss"][: len(before[trial_id][3]["loss"])] == before[trial_id][3]["loss"]
        assert int(tags["hpo.epochs"]) == max(step for step, _ in points["loss"])
        assert resumed.optimizer.trials[trial_id].resource == int(tags["hpo.epochs"])


@pytest.mark.parametrize("scheduler", ["asha", "asha_stopping", "freeze_thaw"])
def test_trials_go_on_that_once_went_on(scheduler):
    searcher = "freeze_thaw" if scheduler == "freeze_thaw" else "random"
    keys = {"mode": "min", "searcher": searcher, "scheduler": scheduler, "max_resource": 9, "trials": 18}
    first, again = (Optimizer(SearchSpace(trainings.SPACE), **keys) for _ in range(2))

    def go(optimizer, order):
        """Train one job at a time, those that are known to go on when nothing else is left."""
        jobs = []
        while True:
            while len(jobs) < 6 and (job := optimizer.ask()) is not None:
                jobs.append(job)
            if not jobs:
                job = optimizer.catch_up()
                if job is None:
                    return
                jobs.append(job)
            job = jobs.pop(order.randrange(len(jobs)))
            for epoch in range(job.start + 1, job.stop + 1):
                value = trainings.curve(job.config, epoch) * (1 + job.trial_id % 3 * (9 - epoch))
                if optimizer.report(job.trial_id, epoch, value) is Decision.STOP:
                    break
            optimizer.complete(job.trial_id)

    go(first, random.Random(1))
    reached = {trial_id: trial.resource for trial_id, trial in first.trials.items()}
    stopped = [trial_id for trial_id, resource in reached.items() if resource < 9]
    again.recall(
        {trial_id: trial.config for trial_id, trial in first.trials.items()},
        reached,
        stopped if scheduler == "asha_stopping" else [],
    )
    go(again, random.Random(2))
    differs = Optimizer(SearchSpace(trainings.SPACE), **keys)
    differs.recall({trial_id: trial.config for trial_id, trial in first.trials.items()})
    go(differs, random.Random(2))
    others = {trial_id: trial.resource for trial_id, trial in differs.trials.items()}
    assert any(others[trial_id] < resource for trial_id, resource in reached.items()), (
        "the order matters here"
    )
    for trial_id, resource in reached.items():
        assert again.trials[trial_id].resource >= resource
        if scheduler == "asha_stopping":
            assert again.trials[trial_id].resource == resource


def test_the_command_says_how_a_study_of_a_function_goes_on(store):
    study = search(trials=3)
    result = CliRunner().invoke(main, ["resume", study.run_id])
    assert result.exit_code == 2
    assert f"goes on in Python with: tune(with_checkpoints, resume='{study.run_id}')" in result.output
