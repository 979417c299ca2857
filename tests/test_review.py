"""Paths that go wrong at awkward moments: each leaves true runs, and the study alive where it can be."""

import os
import signal
import threading
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import trainings
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import _validate_metric_name
from rich.console import Console
from test_trial import Memory

from mlflow_hpo import ConfigError, Study, StudyError, Trial, TrialStopped
from mlflow_hpo.launchers.base import Outcome, Reported
from mlflow_hpo.reports.live import PlainView
from mlflow_hpo.tracking.connect import ask, connect, public_uri
from mlflow_hpo.tracking.reader import read_study
from mlflow_hpo.tracking.tracker import Tracker
from mlflow_hpo.tracking.writer import Writer


def make(train, listener=None, **keys):
    defaults = {"metric": "loss", "mode": "min", "searcher": "random", "scheduler": "full", "max_resource": 2,
                "trials": 2, "seed": 1}  # fmt: skip
    return Study(train, trainings.SPACE, listener=listener, **(defaults | keys))


def children(store, run_id):
    experiment = store.get_run(run_id).info.experiment_id
    runs = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {int(run.data.tags["hpo.trial"]): run for run in runs}


def only_parent(store):
    experiment = store.get_experiment_by_name("test").experiment_id
    [parent] = [run for run in store.search_runs([experiment]) if "hpo.trial" not in run.data.tags]
    return parent


def test_a_job_that_ends_as_it_is_killed_leaves_a_fresh_worker(start_jobs):
    run = start_jobs(trainings.quick)
    run.submit(0, stop=1)
    run.until(lambda event: isinstance(event, Reported))
    run.launcher.reply(0, go_on=True, best=False)
    time.sleep(1.0)  # the job ends, but we have not read that yet
    run.launcher.kill(0, "took too long")
    end, _ = run.to_end()
    assert end.outcome is Outcome.COMPLETED
    run.submit(1, stop=1)
    end, _ = run.to_end()
    assert (end.trial_id, end.outcome, end.reason) == (1, Outcome.COMPLETED, "")


def test_a_worker_whose_child_holds_its_pipe_is_missed_all_the_same(start_jobs):
    def train(trial):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    run = start_jobs(train)
    run.submit()
    begin = time.monotonic()
    end, _ = run.to_end()
    assert end.reason == "the worker process died: signal SIGKILL"
    assert time.monotonic() - begin < 50


def test_what_a_killed_trial_has_forked_goes_with_it(start_jobs, tmp_path, wait_for):
    def train(trial):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "child").write_text(str(child))
        time.sleep(60)

    run = start_jobs(train)
    run.submit()
    pid = int(wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text()))
    run.launcher.kill(0, "took too long")
    end, _ = run.to_end()
    assert end.reason == "took too long"
    status = Path(f"/proc/{pid}/status")
    wait_for(lambda: not status.exists() or "State:\tZ" in status.read_text(), 5)


def test_a_training_that_raises_eof_fails_for_that_reason(start_jobs):
    def train(trial):
        raise EOFError("Ran out of input")

    run = start_jobs(train)
    run.submit()
    end, _ = run.to_end()
    assert end.reason == "EOFError: Ran out of input"


def test_a_training_that_swallows_the_stop_has_stopped(start_jobs):
    def train(trial):
        for epoch in trial.epochs():
            try:
                trial.report(epoch, loss=1.0)
            except BaseException:
                continue

    run = start_jobs(train)
    run.submit(stop=9)
    end, events = run.to_end(go_on=False)
    assert (end.outcome, end.reason) == (Outcome.STOPPED, "")
    assert sum(isinstance(event, Reported) for event in events) == 1


def test_a_training_that_fails_keeps_the_best_checkpoint(store):
    def train(trial):
        for epoch in trial.epochs():
            with open("state", "w") as file:
                file.write(str(epoch))
            trial.save_checkpoint("state")
            trial.report(epoch, loss=float(abs(epoch - 2)))
            if epoch == 4:
                raise ValueError("diverged")

    study = make(train, trials=1, max_resource=9)
    study.run()
    [run] = children(store, study.run_id).values()
    names = [info.path.split("/")[1][:10] for info in store.list_artifacts(run.info.run_id, "checkpoints")]
    assert run.info.status == "FAILED"
    assert "epoch-0002" in names


def test_a_training_that_stops_itself_has_failed(store):
    def train(trial):
        trial.report(1, loss=1.0)
        raise TrialStopped

    study = make(train, scheduler="successive_halving", max_resource=3, trials=1)
    study.run()
    [run] = children(store, study.run_id).values()
    assert run.info.status == "FAILED"
    assert run.data.tags["hpo.stop_reason"].startswith("the training raised TrialStopped by itself")


def report(epoch, /, **metrics):
    channel = Memory()
    Trial({}, stop=9, seed=0, device="cpu", channel=channel).report(epoch, **metrics)
    return channel.reports


@pytest.mark.parametrize("epoch", [1.0, "1", None])
def test_epochs_are_whole_numbers(epoch):
    with pytest.raises(StudyError, match="report: the epoch must be a whole number, got"):
        report(epoch, loss=1.0)
    [(given, _)] = report(np.int64(3), loss=1.0)
    assert type(given) is int


@pytest.mark.parametrize("name", ["acc@5", "a//b", "/a", "../a", ".", "x" * 246, ""])
def test_a_metric_that_mlflow_would_refuse_fails_its_trial_only(name):
    with pytest.raises(StudyError, match="is no name for a metric"):
        report(1, **{name: 1.0})


@pytest.mark.parametrize("name", ["val loss", "top-5: a/b.c_d", "Güte", "x" * 245])
def test_a_metric_may_have_any_name_that_mlflow_takes(name):
    assert report(1, **{name: 1.0}) == [(1, {name: 1.0})]
    _validate_metric_name(f"best_{name}")


def test_a_report_without_the_metric_fails_its_trial_only_once_it_was_there(store):
    def train(trial):
        for epoch in trial.epochs():
            trial.report(epoch, **({"other": 1.0} if trial.params["x"] > 0 else {"loss": 1.0}))

    points = [{"x": x, "kind": "round"} for x in (-0.5, 0.5, -0.2)]
    study = make(train, points=points, trials=3)
    study.run()
    runs = children(store, study.run_id)
    assert [runs[i].info.status for i in range(3)] == ["FINISHED", "FAILED", "FINISHED"]
    assert runs[1].data.tags["hpo.stop_reason"].startswith("metric: 'loss' is not among")


def test_texts_of_any_kind_are_written(store):
    def train(trial):
        if trial.params["x"] > 0:
            raise ValueError("nul \0, half \udcff of a pair, http://me:secret@host/ " + "x" * 10_000)
        trainings.quick(trial)

    study = make(train, points=[{"x": x, "kind": "round"} for x in (-0.5, 0.5)])
    study.run()
    tags = children(store, study.run_id)[1].data.tags
    assert tags["hpo.stop_reason"].startswith("ValueError: nul , half ? of a pair, http://host/ xxx")
    assert "secret" not in tags["hpo.traceback"]


def test_who_waits_for_a_run_when_the_store_breaks_is_told(monkeypatch):
    class Store:
        def __init__(self):
            self.writing = threading.Event()
            self.go = threading.Event()

        def log_batch(self, run_id, **_):
            self.writing.set()
            self.go.wait(10)
            raise MlflowException("no", error_code=mlflow.exceptions.INVALID_PARAMETER_VALUE)

    store = Store()
    writer = Writer(store, threads=1)
    writer.tags("run", {"a": "1"})
    assert store.writing.wait(10)
    future = writer.create_run("0", tags={}, run_name="trial-0000")
    store.go.set()
    with pytest.raises(Exception, match="no"):
        future.result(10)
    with pytest.raises(StudyError, match="no"):
        writer.call(lambda: 1)
    writer.close()


def test_a_store_that_refuses_one_run_leaves_no_run_running(store, monkeypatch):
    log_batch = MlflowClient.log_batch

    def refusing(self, run_id, metrics=(), params=(), tags=(), **kw):
        if any(metric.key == "loss" and metric.step == 3 for metric in metrics):
            raise MlflowException("quota", error_code=mlflow.exceptions.INVALID_PARAMETER_VALUE)
        return log_batch(self, run_id, metrics=metrics, params=params, tags=tags, **kw)

    monkeypatch.setattr(MlflowClient, "log_batch", refusing)
    study = make(trainings.slow, max_resource=60, trials=2)
    with pytest.raises(StudyError, match="quota"):
        study.run()
    assert store.get_run(study.run_id).info.status == "FAILED"
    assert {run.info.status for run in children(store, study.run_id).values()} == {"FAILED"}


def test_an_interrupt_while_the_study_is_set_up_leaves_no_run_running(store, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tracker, "_log_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(trainings.quick).run()
    assert only_parent(store).info.status == "KILLED"


def test_a_training_that_cannot_be_pickled_is_told(store):
    lock = threading.Lock()

    def train(trial):
        with lock:
            trainings.quick(trial)

    with pytest.raises(ConfigError, match="train: cannot be sent to the workers: .*lock"):
        make(train, listener=PlainView(Console())).run()


def test_a_running_study_can_be_read_before_a_trials_params_are_there(store):
    study = make(trainings.quick)
    study.run()
    store.create_run(
        store.get_run(study.run_id).info.experiment_id,
        tags={
            "mlflow.parentRunId": study.run_id,
            "hpo.kind": "trial",
            "hpo.trial": "7",
            "hpo.bracket": "0",
            "hpo.rung": "0",
        },
    )
    assert len(read_study(study.run_id).trials) == 3


def test_the_parent_can_be_active_whatever_experiment_is(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mine = mlflow.set_experiment("mine")
    tracker = Tracker.begin(experiment="other", name=None, tags={}, params={}, artifacts={})
    with tracker.active():
        mlflow.log_metric("quality", 1.0)
    tracker.close()
    assert store.get_run(tracker.run_id).data.metrics == {"quality": 1.0}
    with mlflow.start_run() as run:
        assert run.info.experiment_id == mine.experiment_id
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)


def test_a_model_name_that_mlflow_would_refuse_is_told_before_the_search():
    with pytest.raises(ConfigError, match="register: must be a name without '/' and ':', got 'a/b'"):
        make(trainings.quick, register="a/b")


def test_uris_are_shown_without_secrets():
    assert public_uri("postgresql://h/db?user=me&password=secret") == "postgresql://h/db"
    assert public_uri("postgresql://me:p@h/db?sslmode=require") == "postgresql://h/db?sslmode=require"


@pytest.mark.parametrize("password", ["12/hunter2", "hunter2#a", "hunter2?b", "pa/hunter2"])
def test_passwords_that_are_not_quoted_are_not_shown_either(monkeypatch, password):
    uri = f"postgresql://me:{password}@127.0.0.1:1/mlflow"
    assert public_uri(uri) == "postgresql://127.0.0.1:1/mlflow"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    with pytest.raises(StudyError, match="MLFLOW_TRACKING_URI: cannot reach postgresql://127.0.0.1:1/mlflow"):
        connect()


def test_a_port_that_is_no_number_may_be_a_part_of_a_password(monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://me:pa/hunter2@127.0.0.1:1")
    with pytest.raises(StudyError, match="MLFLOW_TRACKING_URI: its port is no number") as told:
        connect()
    assert "pa/" not in str(told.value)


def test_errors_are_shown_without_secrets():
    def refused():
        raise MlflowException("API request to http://me:hunter2@host:5000/api failed")

    with pytest.raises(StudyError, match="^problem: API request to http://host:5000/api failed$"):
        ask("problem", refused)
