"""Jobs begin before their runs are there."""

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import faulty
import mlflow
import pytest
import trainings

from mlflow_hpo import Study, StudyError
from mlflow_hpo.arrivals import Arrivals
from mlflow_hpo.launchers.base import CheckpointStored, Ended, Outcome, Reported
from mlflow_hpo.tracking.runs import TrialRun


def report(trial_id, epoch):
    return Reported(trial_id, epoch, {"loss": 1.0}, 0.0)


@pytest.fixture
def arrived():
    return []


@pytest.fixture
def arrivals(arrived, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.arrivals.PATIENCE", 0.05)
    return Arrivals(lambda trial_id, run: arrived.append((trial_id, run.run_id)))


def test_what_a_trial_tells_waits_for_its_run(arrivals, arrived):
    run = Future()
    arrivals.expect(0, run)
    assert list(arrivals.admit([report(0, 1), report(1, 1)])) == [report(1, 1)]
    assert list(arrivals.admit([report(0, 2)])) == []
    run.set_result(TrialRun("r0", "here"))
    assert list(arrivals.admit([report(1, 2)])) == [report(1, 2), report(0, 1), report(0, 2)]
    assert arrived == [(0, "r0")]
    assert list(arrivals.admit([report(0, 3)])) == [report(0, 3)]


def test_a_run_that_is_due_soon_is_waited_for(arrivals, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.arrivals.PATIENCE", 60.0)
    run = Future()
    arrivals.expect(0, run)
    timer = threading.Timer(0.2, run.set_result, [TrialRun("r0", "here")])
    timer.start()
    assert list(arrivals.admit([report(0, 1)])) == [report(0, 1)]
    timer.join()


def test_the_first_run_that_comes_ends_the_wait(arrivals, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.arrivals.PATIENCE", 60.0)
    run = Future()
    arrivals.expect(0, Future())
    arrivals.expect(1, run)
    run.set_result(TrialRun("r1", "here"))
    begin = time.monotonic()
    assert list(arrivals.admit([report(0, 1), report(1, 1)])) == [report(1, 1)]
    assert time.monotonic() - begin < 30


def test_a_run_that_comes_for_a_trial_which_has_told_nothing_does_not(arrivals, arrived, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.arrivals.PATIENCE", 60.0)
    silent, run = Future(), Future()
    arrivals.expect(0, silent)
    arrivals.expect(1, run)
    silent.set_result(TrialRun("r0", "here"))
    timer = threading.Timer(0.2, run.set_result, [TrialRun("r1", "here")])
    timer.start()
    assert list(arrivals.admit([report(1, 1)])) == [report(1, 1)]
    assert arrived == [(0, "r0"), (1, "r1")]
    timer.join()


def test_whoever_has_told_nothing_is_not_waited_for(arrivals, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.arrivals.PATIENCE", 60.0)
    arrivals.expect(0, Future())
    begin = time.monotonic()
    assert list(arrivals.admit([report(1, 1)])) == [report(1, 1)]
    assert time.monotonic() - begin < 30


def test_a_run_that_cannot_be_created_is_an_error(arrivals):
    run = Future()
    run.set_exception(StudyError("no room"))
    arrivals.expect(0, run)
    with pytest.raises(StudyError, match="no room"):
        list(arrivals.admit([]))


def test_knows_which_jobs_have_ended_unheard(arrivals):
    run = Future()
    arrivals.expect(0, run)
    list(arrivals.admit([report(0, 1)]))
    assert not arrivals.ended(0)
    list(arrivals.admit([Ended(0, Outcome.COMPLETED, 1.0)]))
    assert arrivals.ended(0)
    assert not arrivals.ended(1)
    run.set_result(TrialRun("r0", "here"))
    list(arrivals.admit([]))
    assert not arrivals.ended(0)


# --- in a study


@pytest.fixture
def gate(monkeypatch):
    """While it is closed no run of a trial is created; `passed` are the times at which runs were."""
    gate = threading.Event()
    gate.passed = []
    create_run = mlflow.MlflowClient.create_run

    def create(client, experiment_id, *args, **options):
        if "hpo.trial" in (options.get("tags") or {}):
            gate.wait(60)
            gate.passed.append(time.time())
        return create_run(client, experiment_id, *args, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create)
    yield gate
    gate.set()


def children(store, study):
    experiment = store.get_run(study.run_id).info.experiment_id
    return store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study.run_id}'")


class Ticks:
    """Calls a function at each tick of a study."""

    def __init__(self, ticked):
        self.ticked = ticked

    def started(self, summary):
        self.summary = summary

    def happened(self, message):
        pass

    def ended(self):
        pass


def search(train, listener, space=trainings.SPACE, **keys):
    keys = {"searcher": "random", "scheduler": "full", "trials": 1, "max_resource": 3, **keys}
    return Study(train, space, metric="loss", mode="min", seed=0, listener=listener, **keys)


def test_a_job_begins_while_its_run_is_created(store, gate, tmp_path):
    def ticked():
        if list(tmp_path.glob("begun-*")):
            gate.set()

    space = {
        "folder": {"type": "categorical", "choices": [str(tmp_path)]},
        "x": {"type": "float", "low": 0.0, "high": 1.0},
    }
    study = search(trainings.leaves_its_time, Ticks(ticked), space)
    study.run()
    [begun] = tmp_path.glob("begun-*")
    assert float(begun.name.removeprefix("begun-")) < gate.passed[0]
    [run] = children(store, study)
    assert run.info.status == "FINISHED"
    points = store.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_study_that_is_interrupted_meanwhile_ends_and_leaves_the_trial_paused(store, gate, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.search_loop.GRACE", 1.0)
    timer = threading.Timer(8.0, gate.set)

    def ticked():
        if not timer.is_alive() and not gate.is_set() and study.summary().trials:
            timer.start()
            study._interrupt()

    study = search(trainings.quick, Ticks(ticked))
    with pytest.raises(KeyboardInterrupt):
        study.run()
    timer.cancel()
    [run] = children(store, study)
    assert (run.info.status, run.data.tags["hpo.stop_reason"]) == ("SCHEDULED", "interrupted after epoch 0")
    assert store.get_run(study.run_id).info.status == "KILLED"
    again = Study(trainings.quick, resume=study.run_id)
    again.run()
    [run] = children(store, study)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", again.best.value)


def test_a_job_that_dies_before_its_run_is_there_is_tried_again(store, gate):
    def ticked():
        if Path("died").exists() and study._loop._arrivals.ended(0):
            gate.set()

    study = search(faulty.dies_at_its_report_once, Ticks(ticked))
    study.run()
    [run] = children(store, study)
    assert (run.info.status, run.data.tags["hpo.attempt"]) == ("FINISHED", "2")
    points = store.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_job_that_began_first_stores_its_checkpoint_where_the_run_is(start_jobs, tmp_path):
    run = start_jobs(trainings.saves_and_raises)
    run.submit(stop=1, location="")
    run.until(lambda event: isinstance(event, Reported))
    run.launcher.located(0, str(tmp_path / "store-0"), "run-0")
    run.launcher.reply(0, go_on=True, best=False)
    end, events = run.to_end()
    assert (end.outcome, end.reason) == (Outcome.FAILED, "RuntimeError: after all")
    assert [event.epoch for event in events if isinstance(event, CheckpointStored)] == [1]
    assert (tmp_path / "store-0" / "1.ckpt").exists()
