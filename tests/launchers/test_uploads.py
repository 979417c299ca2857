"""Checkpoints on their way to the store: while it is slow, away, or the worker is killed."""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
import trainings
from launching import FolderServices, FolderStore, Run, starting

from mlflow_hpo.checkpoint_files import epoch_of, name_of
from mlflow_hpo.errors import StoreAwayError
from mlflow_hpo.launchers.base import CheckpointStored, Ended, Outcome, Reported, Warned
from mlflow_hpo.launchers.copies import LocalCopies
from mlflow_hpo.launchers.uploader import Settled, Upload, Uploader

# workers can't import this file: it lies in no package, and only what is installed is on their path
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Store(FolderStore):
    """Obeys the files beside it: `away`, `refuses`, `slow` (seconds); counts the downloads."""

    def _sign(self, name):
        return self.folder.parent / name

    def upload(self, epoch, path):
        if self._sign("away").exists():
            raise StoreAwayError("connection refused")
        if self._sign("refuses").exists():
            raise PermissionError("AccessDenied")
        if self._sign("slow").exists():
            self._sign(f"begun-{epoch}").touch()
            time.sleep(float(self._sign("slow").read_text()))
        return super().upload(epoch, path)

    def names(self):
        if self._sign("away").exists():
            raise StoreAwayError("connection refused")
        return super().names()

    def download(self, name, folder):
        self._sign("downloaded").touch()
        return super().download(name, folder)


class Services(FolderServices):
    def checkpoints(self, location):
        return Store(location)


class Jobs(Run):
    services = Services

    def end(self, **answer):
        return self.until(lambda event: isinstance(event, Ended), **answer)

    def sealed(self, trial_id=0):
        files = (self.folder / "work" / f"trial-{trial_id:04d}").glob("*.ckpt")
        return sorted(path for path in files if epoch_of(path.name) is not None)


@pytest.fixture
def jobs(tmp_path):
    with starting(Jobs, tmp_path) as start:
        yield start


def lengths(events):
    return [(event.epoch, event.metrics["length"]) for event in events if isinstance(event, Reported)]


def stored(events):
    return [event.epoch for event in events if isinstance(event, CheckpointStored)]


def warnings(events):
    return [event.message for event in events if isinstance(event, Warned)]


def test_a_job_ends_before_its_checkpoint_is_stored_and_the_next_one_runs_meanwhile(jobs, tmp_path):
    (tmp_path / "slow").write_text("1.5")
    run = jobs(trainings.with_checkpoints)
    run.submit(0, stop=1)
    assert stored(run.end()) == []
    run.submit(1, stop=1)
    events = run.end()
    assert events[-1].trial_id == 1
    assert stored(events) == []
    assert run.launcher.uploads == 2
    assert stored(run.launcher.drain(30)) == [1, 1]
    assert run.launcher.uploads == 0


def test_drain_waits_no_longer_than_told(jobs, tmp_path):
    (tmp_path / "slow").write_text("2")
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=1)
    run.end()
    begin = time.monotonic()
    assert run.launcher.drain(0.3) == []
    assert time.monotonic() - begin < 1.5
    assert run.launcher.uploads == 1


def test_close_stores_what_is_queued(jobs, tmp_path):
    (tmp_path / "slow").write_text("1")
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    run.end()
    run.launcher.close()
    assert [path.name for path in (tmp_path / "store-0").iterdir()] == ["2.ckpt"]


def test_while_the_store_is_away_training_goes_on_from_local_copies(jobs, tmp_path):
    (tmp_path / "away").touch()
    run = jobs(trainings.with_checkpoints, workers=2)
    events = []
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        run.submit(start=start, stop=stop)
        events += run.end()
    assert lengths(events) == [(epoch, epoch) for epoch in range(1, 6)]
    assert [epoch_of(path.name) for path in run.sealed()] == [5], "older ones are on disk still"
    events += run.until(lambda event: isinstance(event, Warned)) if not warnings(events) else []
    (tmp_path / "away").unlink()
    events += run.launcher.drain(30)
    assert stored(events) == [5]
    events += run.launcher.wait(0.2)
    told = warnings(events)
    assert len(told) == 2
    assert told[0].startswith("the artifact store is away: training goes on")
    assert told[1].startswith("the artifact store is back")
    assert [epoch_of(path.name) for path in run.sealed()] == [5]
    assert not (tmp_path / "downloaded").exists()


def test_the_best_epochs_checkpoint_waits_beside_the_newest(jobs, tmp_path):
    (tmp_path / "away").touch()
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    run.until(lambda event: isinstance(event, Reported))
    run.launcher.reply(0, go_on=True, best=True)
    run.end()
    run.submit(start=2, stop=4)
    run.end()
    assert [epoch_of(path.name) for path in run.sealed()] == [1, 4]
    (tmp_path / "away").unlink()
    assert sorted(stored(run.launcher.drain(30))) == [1, 4]
    assert [epoch_of(path.name) for path in run.sealed()] == [4]


def test_a_refusal_costs_the_checkpoint_and_not_the_trial(jobs, tmp_path):
    (tmp_path / "refuses").touch()
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    events = [*run.end(), *run.launcher.drain(30)]
    [end] = [event for event in events if isinstance(event, Ended)]
    assert end.outcome is Outcome.COMPLETED
    [told] = warnings(events)
    assert told.startswith("the checkpoint of epoch 2 is not stored, so only this machine can go on from it")
    assert told.endswith("PermissionError: AccessDenied")
    run.submit(start=2, stop=3)
    assert lengths(run.end()) == [(3, 3)]


def test_a_corrupt_local_copy_is_not_used(jobs, tmp_path):
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    run.to_end()
    [copy] = run.sealed()
    copy.write_text("[1, 2, 3, 4]")
    run.submit(start=2, stop=3)
    events = run.end()
    assert lengths(events) == [(3, 3)]
    assert warnings(events)[0].startswith("the local copy of the checkpoint of epoch 2 is corrupt")
    assert (tmp_path / "downloaded").exists()


def test_without_a_local_copy_it_is_downloaded(jobs, tmp_path):
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    run.to_end()
    run.launcher.forget(0)
    assert run.sealed() == []
    (tmp_path / "away").touch()
    run.submit(start=2, stop=3)
    events = run.until(lambda event: isinstance(event, Warned))
    assert warnings(events)[0].startswith("the artifact store is away, waiting for the checkpoint")
    (tmp_path / "away").unlink()
    events = run.end()
    assert lengths(events) == [(3, 3)]
    assert (tmp_path / "downloaded").exists()


def test_an_interrupt_ends_the_wait_for_a_store_that_is_away(jobs, tmp_path):
    (tmp_path / "away").touch()
    run = jobs(trainings.with_checkpoints)
    run.submit(start=2, stop=3)
    run.until(lambda event: isinstance(event, Warned))
    run.launcher.interrupt(0)
    assert run.end()[-1].outcome is Outcome.STOPPED


def test_what_a_killed_worker_had_to_store_its_replacement_stores(jobs, tmp_path):
    (tmp_path / "slow").write_text("3")
    run = jobs(trainings.endless_epoch)
    run.submit(0, stop=1)
    run.end()
    run.submit(1, stop=9)
    run.until(lambda event: isinstance(event, Reported))
    run.launcher.reply(1, go_on=True, best=False)
    time.sleep(0.3)  # it is in the endless epoch, and the first upload under way
    assert (tmp_path / "begun-1").exists()
    (tmp_path / "slow").unlink()
    run.launcher.kill(1, "trial_timeout")
    events = run.end()
    assert (events[-1].outcome, events[-1].reason) == (Outcome.FAILED, "trial_timeout")
    events += run.launcher.drain(60)
    assert [(e.trial_id, e.epoch) for e in events if isinstance(e, CheckpointStored)] == [(0, 1), (1, 1)]


def test_workers_whose_driver_is_gone_store_what_is_queued(jobs, tmp_path):
    (tmp_path / "slow").write_text("1")
    run = jobs(trainings.with_checkpoints)
    run.submit(stop=1)
    run.end()
    [worker] = run.launcher._workers.values()
    worker.connection.close()
    assert worker.process.wait(60) == 1
    assert (tmp_path / "store-0" / "1.ckpt").exists()
    run.launcher._workers.clear()


def changes_what_it_loads(trial):
    path = trial.load_checkpoint()
    history = json.loads(path.read_text()) if path else []
    if path:
        path.write_text("spoilt")
    with tempfile.TemporaryDirectory() as folder:
        for epoch in trial.epochs():
            history.append(epoch)
            if trial.params.get("x") or epoch == 1:
                file = Path(folder) / "state.json"
                file.write_text(json.dumps(history))
                trial.save_checkpoint(file)
            trial.report(epoch, length=len(history))


def test_what_training_does_to_its_copy_is_of_no_effect(jobs):
    run = jobs(changes_what_it_loads)
    run.submit(params={"x": 0}, stop=1)
    run.end()
    for _ in range(2):
        run.submit(params={"x": 0}, start=1, stop=2)
        assert lengths(run.end()) == [(2, 2)]


# --- the uploader alone


class Flaky:
    """Fails every third call, as stores do."""

    def __init__(self):
        self.calls = 0
        self.stored = []

    def upload(self, epoch, path):
        self.calls += 1
        if self.calls % 3 == 1:
            raise StoreAwayError("503")
        self.stored.append((path.parent.name, epoch))
        return path.name


def sealed(folder, trial_id, epoch, newest=True, size=10):
    path = folder / str(trial_id) / name_of(epoch, f"{epoch:064x}")
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return Upload(trial_id, str(trial_id), epoch, path, size, newest)


def test_a_store_that_fails_a_third_of_the_calls_gets_everything_in_each_trials_order(tmp_path):
    store, told = Flaky(), []
    uploader = Uploader(lambda _: store, told.append)
    for epoch in range(1, 4):
        for trial_id in range(3):
            uploader.add(sealed(tmp_path, trial_id, epoch))
    assert uploader.drain(30)
    for trial_id in range(3):
        assert [epoch for trial, epoch in store.stored if trial == str(trial_id)] == [1, 2, 3]
    assert sum(isinstance(message, Settled) for message in told) == 9


def test_a_file_that_is_gone_is_not_stored(tmp_path):
    store, told, begin = Flaky(), [], threading.Event()
    store.calls = 1
    uploader = Uploader(lambda _: begin.wait() and store, told.append)
    first, second = sealed(tmp_path, 0, 1), sealed(tmp_path, 0, 2)
    uploader.add(first)
    uploader.add(second)
    os.unlink(second.path)
    begin.set()
    assert uploader.drain(10)
    assert [epoch for _, epoch in store.stored] == [1]
    assert [message.event for message in told if isinstance(message, Settled)][1] is None


# --- local copies alone


def test_local_copies_are_bound_by_their_size_and_the_oldest_go_first(tmp_path):
    copies = LocalCopies(limit=25)
    uploads = [sealed(tmp_path, trial_id, 1) for trial_id in range(4)]
    for upload in uploads:
        copies.queued(upload, running={0})
    assert all(upload.path.exists() for upload in uploads), "what is not stored yet is not given up"
    for upload in uploads:
        copies.settled(upload, running={0})
    assert [upload.path.exists() for upload in uploads] == [True, False, False, True]


def test_local_copies_of_a_trial_that_is_over_go_once_they_are_stored(tmp_path):
    copies = LocalCopies()
    upload = sealed(tmp_path, 0, 1)
    copies.queued(upload, running=set())
    copies.forget(0)
    assert upload.path.exists()
    copies.settled(upload, running=set())
    assert not upload.path.exists()
