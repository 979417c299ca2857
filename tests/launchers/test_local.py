import contextlib
import os
import signal
import sys
import tempfile
import threading
import time

import cloudpickle
import psutil
import pytest
import trainings
from launcher_contract import LauncherContract
from launching import PARAMS, NamedRun, Run

from mlflow_hpo import ConfigError, StudyError
from mlflow_hpo.launchers.base import (
    Cause,
    CheckpointStored,
    Ended,
    Heartbeat,
    Outcome,
    Reported,
    TrialJob,
)
from mlflow_hpo.launchers.local import LocalLauncher

# workers can't import this file: it lies in no package, and only what is installed is on their path
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestContract(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        with contextlib.closing(NamedRun(tmp_path_factory.mktemp("contract"))) as run:
            yield run


def test_a_worker_is_used_again(start_jobs):
    run = start_jobs(lambda trial: trial.report(1, pid=os.getpid()))
    pids = set()
    for trial_id in range(3):
        run.submit(trial_id, stop=1)
        _, events = run.to_end()
        pids |= {event.metrics["pid"] for event in events if isinstance(event, Reported)}
    assert len(pids) == 1


def test_a_worker_is_replaced_after_so_many_jobs_and_what_it_had_to_store_is_stored(start_jobs):
    run = start_jobs(saves_and_tells_its_pid)
    run.launcher.jobs_per_worker = 2
    pids, stored = [], []
    for trial_id in range(5):
        run.submit(trial_id, stop=1)
        events = run.until(lambda event: isinstance(event, Ended))  # the upload may be under way
        pids += [event.metrics["pid"] for event in events if isinstance(event, Reported)]
        stored += [event.trial_id for event in events if isinstance(event, CheckpointStored)]
    stored += [event.trial_id for event in run.launcher.drain(60)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]
    assert sorted(stored) == [0, 1, 2, 3, 4]


def saves_and_tells_its_pid(trial):
    for epoch in trial.epochs():
        with tempfile.NamedTemporaryFile() as file:
            trial.save_checkpoint(file.name)
        trial.report(epoch, pid=os.getpid())


def test_a_worker_that_ran_out_of_memory_is_replaced(start_jobs):
    run = start_jobs(lacks_memory_for_positive)
    run.submit(0, {"x": 0.5}, stop=1)
    end, before = run.to_end()
    assert (end.reason, end.cause) == ("RuntimeError: CUDA out of memory. Tried to allocate", Cause.RESOURCES)
    run.submit(1, {"x": -0.5}, stop=1)
    _, after = run.to_end()
    assert pids(before) != pids(after)


def lacks_memory_for_positive(trial):
    trial.report(1, pid=os.getpid())
    if trial.params["x"] > 0:
        raise RuntimeError("CUDA out of memory. Tried to allocate")


def pids(events):
    return {event.metrics["pid"] for event in events if isinstance(event, Reported)}


def test_a_worker_that_dies_is_heard_to_the_end_though_what_left_its_group_holds_its_pipe(start_jobs):
    run = start_jobs(forks_and_dies_at_its_report)
    run.submit()
    events = run.until(lambda event: isinstance(event, Reported))
    [child] = [int(event.metrics["child"]) for event in events if isinstance(event, Reported)]
    [worker] = run.launcher._workers.values()
    worker.process.wait(60)
    assert is_alive(child)  # and has the worker's end of the pipe
    end, _ = run.to_end()
    run.launcher.reply(0, go_on=True, best=False)  # nobody needs it any more
    assert (end.reason, end.cause) == ("the worker process died: signal SIGKILL", Cause.LOST)
    os.kill(child, signal.SIGKILL)


def forks_and_dies_at_its_report(trial):
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    trial.report(1, child=child)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_is_killed_while_it_starts_does_not_cost_its_job(start_jobs):
    run = start_jobs(trainings.SlowToLoad())
    run.submit()
    for _ in range(2):
        [worker] = run.launcher._workers.values()
        assert not worker.ready
        worker.process.kill()
        worker.process.wait()
        assert run.launcher.wait(10.0) == []
    end, _ = run.to_end()
    assert end.outcome is Outcome.COMPLETED


def test_workers_that_are_always_killed_while_they_start_end_the_study(start_jobs, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.launchers.local.BIRTHS", 1)
    run = start_jobs(trainings.quick)
    for expected in (contextlib.nullcontext(), pytest.raises(StudyError, match="could not start: -9")):
        [worker] = run.launcher._workers.values()
        worker.process.kill()
        worker.process.wait()
        with expected:
            run.launcher.wait(10.0)


def test_signs_of_life_are_those_of_the_training(start_jobs):
    run = start_jobs(trainings.saves_and_raises)
    location = str(run.folder / "store-0")
    run.launcher.submit(run.launcher.free_slot, TrialJob(0, {}, 0, 1, 0, location, watched=True))
    _, events = run.to_end()
    told = [event.waits if isinstance(event, Heartbeat) else type(event).__name__ for event in events]
    told = [each for each in told if each not in ("Sampled", "CheckpointStored")]
    # it begins; saves; reports; is through
    assert told == [False, True, False, "Reported", True, "Ended"]


def test_goes_on_from_no_checkpoint_behind_what_was_reported(start_jobs, tmp_path):
    run = start_jobs(trainings.with_checkpoints)
    (tmp_path / "store-0").mkdir()
    for epoch in (1, 2, 3):
        (tmp_path / "store-0" / f"{epoch}.ckpt").write_text(str(list(range(1, epoch + 1))))
    location = str(tmp_path / "store-0")
    run.launcher.submit(run.launcher.free_slot, TrialJob(0, PARAMS, 0, 5, 0, location, reached=2))
    _, events = run.to_end()
    reports = [event for event in events if isinstance(event, Reported)]
    assert [(event.epoch, event.metrics["length"]) for event in reports] == [(3, 3), (4, 4), (5, 5)]


def test_close_leaves_no_process_behind(tmp_path):
    run = Run(tmp_path, trainings.endless_epoch, workers=2)
    run.submit()
    run.until(lambda event: isinstance(event, Reported))
    processes = [worker.process for worker in run.launcher._workers.values()]
    run.launcher.close()
    run.launcher.close()
    assert [process.poll() is not None for process in processes] == [True, True]


def test_workers_leave_when_the_driver_is_gone(tmp_path):
    run = Run(tmp_path, trainings.endless_epoch)
    run.submit()
    run.until(lambda event: isinstance(event, Reported))
    [worker] = run.launcher._workers.values()
    worker.connection.close()  # what the kernel does when the driver is killed
    assert worker.process.wait(60) == 1


def test_a_training_that_cannot_be_loaded_is_told(tmp_path):
    class Unloadable:
        def __reduce__(self):
            return (exec, ("raise ImportError('no such module here')",))

        def __call__(self, trial):
            raise AssertionError

    with pytest.raises(StudyError, match="a worker process could not start: ImportError: no such module"):
        run = Run(tmp_path, Unloadable())
        run.submit()
        run.to_end()


def test_signals_of_the_terminal_do_not_reach_workers(start_jobs):
    run = start_jobs(trainings.slow)
    run.submit(stop=3)
    run.until(lambda event: isinstance(event, Reported))
    [worker] = run.launcher._workers.values()
    os.kill(worker.process.pid, signal.SIGINT)
    run.launcher.reply(0, go_on=True, best=False)
    end, _ = run.to_end()
    assert end.outcome is Outcome.COMPLETED


def test_workers_must_be_positive():
    with pytest.raises(ConfigError, match="workers: must be 1 or more, got 0"):
        LocalLauncher(0)
