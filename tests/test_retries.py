"""Trials that fail through no fault of their training are tried again, in the same run."""

import shutil
import subprocess
from types import SimpleNamespace

import faulty
import pytest
import trainings
from crashes import told

from mlflow_hpo import Study
from mlflow_hpo.launchers.base import Cause, Ended, Outcome, Slot
from mlflow_hpo.ledger import Ledger, TrialEntry
from mlflow_hpo.optimizer import Job
from mlflow_hpo.retries import Retries


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("mlflow_hpo.retries.PAUSE", 0.0)


def entry(trial_id=0, trained=0, attempt=1):
    made = TrialEntry(Job(trial_id, {}, 0, 9, 0, 0), Slot(0, "cpu", 0.0))
    made.trained, made.attempt = trained, attempt
    return made


def test_what_the_training_raises_is_not_tried_again():
    retries = Retries(5)
    assert not retries.take(Cause.TRAINING, "ValueError: bad", entry())
    assert retries.next() is None


def test_what_is_lost_is_tried_again_as_often_as_allowed():
    retries = Retries(2)
    reason = "the worker process died: signal SIGKILL"
    taken = [retries.take(Cause.LOST, reason, entry(attempt=attempt)) for attempt in (1, 2, 3)]
    assert taken == [True, True, False]
    assert not Retries(0).take(Cause.LOST, reason, entry())


def test_what_is_lacked_again_at_the_same_epoch_is_not_tried_again():
    retries = Retries(9)
    assert retries.take(Cause.RESOURCES, "OutOfMemoryError: 2 GiB", entry(trained=3, attempt=1))
    assert retries.take(Cause.RESOURCES, "OutOfMemoryError: 3 GiB", entry(trained=4, attempt=2))
    assert retries.take(Cause.RESOURCES, "OSError: no space", entry(trained=4, attempt=3))
    assert not retries.take(Cause.RESOURCES, "OSError: no space left", entry(trained=4, attempt=4))
    assert retries.take(Cause.RESOURCES, "OSError: no space", entry(1, trained=4))


def test_jobs_wait_in_their_order():
    retries = Retries(1)
    for trial_id in (3, 1, 2):
        retries.take(Cause.LOST, "died", entry(trial_id))
    assert retries.next().trial_id == 3
    assert retries.give_up() == [1, 2]
    assert retries.next() is None


def test_what_was_lacked_may_be_there_a_little_later(monkeypatch):
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr("mlflow_hpo.retries.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("mlflow_hpo.retries.PAUSE", 10.0)
    retries = Retries(1)
    retries.take(Cause.RESOURCES, "MemoryError", entry(0))
    retries.take(Cause.LOST, "died", entry(1))
    assert retries.next().trial_id == 1
    assert (len(retries), retries.next()) == (1, None)
    clock.now += 10
    assert retries.next().trial_id == 0
    assert len(retries) == 0


def test_a_job_that_was_killed_as_it_hung_is_lost_only_then():
    retries = Retries(1)
    retries.hung(0)
    killed = Ended(0, Outcome.FAILED, 1.0, "heartbeat_timeout")
    assert retries.cause(killed) is Cause.LOST
    assert retries.cause(killed) is Cause.TRAINING


# --- in a study


def search(train, **keys):
    defaults = {"searcher": "random", "scheduler": "full", "max_resource": 5, "trials": 1, "seed": 1}
    study = Study(train, trainings.SPACE, metric="loss", mode="min", **(defaults | keys))
    study.run()
    return study


def only_run(store, run_id):
    experiment = store.get_run(run_id).info.experiment_id
    [run] = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return run


@pytest.mark.parametrize(
    ("train", "reason", "keys"),
    [
        (faulty.dies_once, "failed after epoch 2, trying again: the worker process died: signal SIGKILL", {}),
        (
            faulty.hangs_once,
            "failed after epoch 2, trying again: heartbeat_timeout: no sign of life for 2 seconds",
            {"heartbeat_timeout": 2},
        ),
        (faulty.loses_its_data_once, "after epoch 1, trying again: ConnectionResetError: [Errno 104]", {}),
        (
            faulty.fills_the_disk_once,
            "after epoch 2, trying again: OSError: [Errno 28] cannot keep the checkpoint of epoch 3 on this "
            "machine: No space left on device",
            {},
        ),
    ],
)
def test_it_goes_on_from_its_checkpoint_in_the_same_run(store, train, reason, keys):
    study = search(train, **keys)
    [(_, status, _, points)] = told(store, study.run_id).values()
    assert status == "FINISHED"
    assert points["loss"] == [(epoch, trainings.curve(study.best.config, epoch)) for epoch in range(1, 6)]
    assert points["length"] == [(epoch, epoch) for epoch in range(1, 6)]
    tags = only_run(store, study.run_id).data.tags
    assert tags["hpo.attempt"] == "2"
    assert tags["hpo.warning"].startswith("attempt 1 failed")
    assert reason in tags["hpo.warning"]
    assert "hpo.stop_reason" not in tags
    assert store.get_run(study.run_id).data.metrics["epochs_spent"] == 5


@pytest.fixture
def tiny_disk(tmp_path, monkeypatch):
    """Where studies keep checkpoints in transit: a file system of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_costs_the_trials_that_fill_it_and_no_other(store, tiny_disk):
    points = [{"x": 1.0, "kind": "round"}, {"x": 0.1, "kind": "round"}]
    study = search(faulty.saves_megabytes, trials=2, points=points)
    large, small = study.summary().trials
    assert (large.status, small.status) == ("FAILED", "FINISHED")
    assert large.reason == (
        "OSError: [Errno 28] cannot keep the checkpoint of epoch 1 on this machine: No space left on device"
    )
    assert store.get_run(large.run_id).data.tags["hpo.attempt"] == "2"
    assert store.get_run(study.run_id).info.status == "FINISHED"


def test_without_checkpoints_it_is_trained_again_and_that_is_spent_too(store):
    study = search(faulty.dies_once_without_checkpoints)
    [(_, status, _, points)] = told(store, study.run_id).values()
    assert (status, [step for step, _ in points["loss"]]) == ("FINISHED", [1, 2, 3, 4, 5])
    assert store.get_run(study.run_id).data.metrics["epochs_spent"] == 2 + 5


@pytest.mark.parametrize(
    ("train", "max_retries", "reason"),
    [
        (faulty.dies_always, 1, "the worker process died: exit code 7"),
        (faulty.lacks_memory, 9, "MemoryError: 2 GiB"),
    ],
)
def test_what_comes_again_and_again_is_given_up(store, train, max_retries, reason):
    tags = failed_run(store, search(train, max_retries=max_retries)).data.tags
    assert (tags["hpo.attempt"], tags["hpo.stop_reason"]) == ("2", reason)


def test_what_the_training_raises_fails_at_once(store):
    assert "hpo.attempt" not in failed_run(store, search(faulty.raises_late)).data.tags


def failed_run(store, study):
    run = only_run(store, study.run_id)
    assert run.info.status == "FAILED"
    return run


def test_who_was_told_to_stop_and_dies_of_it_was_stopped(store):
    study = search(faulty.dies_when_told_to_stop, scheduler={"name": "asha_stopping", "eta": 2}, trials=4)
    states = {status for _, status, _, _ in told(store, study.run_id).values()}
    assert states == {"FINISHED", "KILLED"}


def test_a_trial_that_was_to_be_tried_again_is_when_the_study_is_resumed(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "exhausted", lambda ledger: "enough" if ledger.trials[0].attempt == 2 else "")
        study = search(faulty.dies_once)
    run = only_run(store, study.run_id)
    assert (run.info.status, run.data.tags["hpo.attempt"]) == ("SCHEDULED", "2")
    Study(faulty.dies_once, resume=study.run_id).run()
    run = only_run(store, study.run_id)
    assert (run.info.status, run.data.tags["hpo.attempt"]) == ("FINISHED", "2")
    [(_, _, _, points)] = told(store, study.run_id).values()
    assert points["length"] == [(epoch, epoch) for epoch in range(1, 6)]
    assert store.get_run(study.run_id).data.metrics["epochs_spent"] == 5
