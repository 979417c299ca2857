"""`mlflow-hpo watch`: a study that another process drives, seen from outside."""

import dataclasses
import json
import sys

import mlflow
import pytest
from click.testing import CliRunner

from mlflow_hpo.cli import main
from mlflow_hpo.errors import StudyError
from mlflow_hpo.reports import watching
from mlflow_hpo.reports.watching import changes, watch
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary

TRIAL = TrialSummary(trial_id=0, run_id="r0", status="RUNNING", params={"x": 1.0})
STUDY = StudySummary(
    run_id="0" * 32, name="x", experiment_id="1", tracking_uri="sqlite://", status="RUNNING", metric="loss",
    mode="min", searcher="random", scheduler="full", trials_planned=2, max_resource=3, seconds=1.0, epochs=0,
    gpu_hours=0.0, trials=(),
)  # fmt: skip
DRIVER = """
import trainings
from mlflow_hpo import tune
tune(trainings.slow, trainings.SPACE, metric="loss", mode="min", max_resource=3, trials=3,
     searcher="random", scheduler="full")
"""


class Recorder:
    """A view that keeps what it is shown."""

    def __init__(self):
        self.events = []

    def started(self, summary):
        self.events.append("started")

    def happened(self, message):
        self.events.append(message)

    def ticked(self):
        pass

    def ended(self):
        self.events.append("ended")


def with_trials(*trials, **facts):
    return dataclasses.replace(STUDY, trials=trials, **facts)


def test_what_happens_between_two_looks():
    running = with_trials(TRIAL)
    paused = dataclasses.replace(TRIAL, status="SCHEDULED", epochs=1, value=0.5, best=0.5, best_epoch=1)
    failed = dataclasses.replace(TRIAL, trial_id=1, status="FAILED", reason="OSError: full")
    assert list(changes(STUDY, running)) == ["trial 0: started"]
    assert list(changes(running, with_trials(paused, failed))) == [
        "trial 0: paused at epoch 1, loss 0.5",
        "trial 1: started",
        "trial 1: failed at epoch 0: OSError: full",
        "trial 0: best loss so far, 0.5 at epoch 1",
    ]
    assert list(changes(with_trials(paused), with_trials(paused))) == []


def test_an_outage_does_not_end_the_watching():
    view, states = Recorder(), iter([STUDY, StudyError("away"), with_trials(TRIAL, status="FINISHED")])

    def look():
        if isinstance(state := next(states), StudyError):
            raise state
        return state, "process 1"

    assert watch(look, view, interval=1, sleep=lambda seconds: None).status == "FINISHED"
    assert view.events == ["started", "away", "trial 0: started", "ended"]


def test_a_study_that_nobody_drives_is_not_watched_for_ever(monkeypatch):
    monkeypatch.setattr(watching, "PATIENCE", -1.0)
    view = Recorder()
    with pytest.raises(StudyError, match=f"`mlflow-hpo resume {STUDY.run_id}` goes "):
        watch(lambda: (STUDY, ""), view, interval=1, sleep=lambda seconds: None)
    assert view.events == ["started", "ended"]


def test_a_study_of_another_process_is_seen_to_its_end(
    store, start_process, wait_for, tests_folder, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(tests_folder))
    driver = start_process(sys.executable, "-c", DRIVER)
    experiment = wait_for(lambda: store.get_experiment_by_name("test"))
    [study] = wait_for(
        lambda: [
            run
            for run in store.search_runs([experiment.experiment_id], "tags.`hpo.kind` = 'study'")
            if any(each.path == "space.json" for each in store.list_artifacts(run.info.run_id))
        ]
    )
    done = CliRunner().invoke(main, ["watch", study.info.run_id, "--interval", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (lines[0]["status"], lines[-1]["status"]) == ("RUNNING", "FINISHED")
    assert lines[-1]["states"]["running"] == 0
    assert lines[-1]["trials"] == 3
    events = [event for line in lines for event in line["events"]]
    assert any(event.startswith("trial 2: fully trained at epoch 3, loss ") for event in events)
    assert any("best loss so far" in event for event in events)
    assert driver.wait(30) == 0

    again = CliRunner().invoke(main, ["watch", study.info.run_id])
    assert again.exit_code == 0
    assert f"({study.info.run_id}) FINISHED" in again.output


def test_a_study_that_failed_is_exit_code_1(store):
    parent = store.create_run("0", tags={"hpo.kind": "study", "hpo.metric": "loss", "hpo.mode": "min"})
    for name in ("searcher", "scheduler", "trials", "max_resource"):
        store.log_param(parent.info.run_id, f"hpo.{name}", "3")
    store.log_text(
        parent.info.run_id, json.dumps({"x": {"type": "float", "low": 0, "high": 1}}), "space.json"
    )
    store.set_terminated(parent.info.run_id, "FAILED")
    assert CliRunner().invoke(main, ["watch", parent.info.run_id]).exit_code == 1


def test_wrong_usage_is_exit_code_2(store):
    done = CliRunner().invoke(main, ["watch", "0" * 32])
    assert (done.exit_code, done.output[:30]) == (2, "error: run_id: no such run: Ru"), (
        mlflow.get_tracking_uri()
    )
