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
from launching import PARAMS, Run

from mlflow_hpo import ConfigError, StudyError
from mlflow_hpo.launchers.base import (
    Cause,
    CheckpointStored,
    Ended,
    Heartbeat,
    Outcome,
    Reported,
    Sampled,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.local import LocalLauncher, make_slots

# workers can't import this file: it lies in no package, and only what is installed is on their path
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_job_reports_every_epoch_and_samples_the_machine(start_jobs):
    run = start_jobs(trainings.quick)
    run.submit()
    end, events = run.to_end()
    assert (end.trial_id, end.outcome, end.reason) == (0, Outcome.COMPLETED, "")
    assert [event.epoch for event in events if isinstance(event, Reported)] == [1, 2, 3]
    samples = [event for event in events if isinstance(event, Sampled)]
    assert samples[0].metrics == {"system/test": 1.0}
    assert samples[0].number == 0


def test_a_worker_is_used_again(start_jobs):
    run = start_jobs(lambda trial: trial.report(1, pid=os.getpid()))
    pids = set()
    for trial_id in range(3):
        run.submit(trial_id, stop=1)
        _, events = run.to_end()
        pids |= {event.metrics["pid"] for event in events if isinstance(event, Reported)}
    assert len(pids) == 1


def test_a_promoted_trial_goes_on_from_its_checkpoint(start_jobs):
    run = start_jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    _, events = run.to_end()
    assert [event.epoch for event in events if isinstance(event, CheckpointStored)] == [2]
    run.submit(start=2, stop=4)
    _, events = run.to_end()
    reports = [event for event in events if isinstance(event, Reported)]
    assert [(event.epoch, event.metrics["length"]) for event in reports] == [(3, 3), (4, 4)]


def test_the_best_epochs_checkpoint_is_stored_beside_the_newest(start_jobs):
    run = start_jobs(trainings.with_checkpoints)
    run.submit(stop=3)
    events = run.until(lambda event: isinstance(event, Reported))
    run.launcher.reply(0, go_on=True, best=True)
    _, events = run.to_end()
    assert [event.epoch for event in events if isinstance(event, CheckpointStored)] == [1, 3]


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(start_jobs, tmp_path):
    run = start_jobs(trainings.with_checkpoints)
    run.submit(stop=2)
    run.to_end()
    (tmp_path / "store-0" / "3.corrupt").touch()
    run.submit(start=3, stop=4)
    end, events = run.to_end()
    assert end.outcome is Outcome.COMPLETED
    [warning] = [event for event in events if isinstance(event, Warned)]
    assert warning.message.startswith("checkpoint of epoch 3 is corrupt")
    assert [event.epoch for event in events if isinstance(event, Reported)] == [3, 4]


def test_without_any_intact_checkpoint_training_begins_from_scratch(start_jobs, tmp_path):
    (tmp_path / "store-0").mkdir()
    (tmp_path / "store-0" / "2.corrupt").touch()
    run = start_jobs(trainings.with_checkpoints)
    run.submit(start=2, stop=3)
    _, events = run.to_end()
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert warnings[-1] == "no intact checkpoint for epoch 2: training from scratch"
    assert [event.epoch for event in events if isinstance(event, Reported)] == [1, 2, 3]


def test_told_to_stop_a_trial_stores_its_checkpoint_and_ends(start_jobs):
    run = start_jobs(trainings.with_checkpoints)
    run.submit(stop=9)
    end, events = run.to_end(go_on=False)
    assert end.outcome is Outcome.STOPPED
    assert [event.epoch for event in events if isinstance(event, CheckpointStored)] == [1]


def test_careless_training_stops_all_the_same(start_jobs):
    run = start_jobs(trainings.swallows_everything)
    run.submit(stop=1000)
    end, events = run.to_end(go_on=False)
    assert end.outcome is Outcome.STOPPED
    assert sum(isinstance(event, Reported) for event in events) == 1


def test_an_interrupt_ends_a_trial_in_the_middle_of_an_epoch(start_jobs):
    run = start_jobs(trainings.endless_epoch)
    run.submit(stop=9)
    run.until(lambda event: isinstance(event, Reported))
    run.launcher.reply(0, go_on=True, best=False)
    time.sleep(0.3)  # let it enter the endless epoch
    run.launcher.interrupt(0)
    end, events = run.to_end()
    assert end.outcome is Outcome.STOPPED
    assert [event.epoch for event in events if isinstance(event, CheckpointStored)] == [1]


def test_a_late_interrupt_does_not_hit_the_next_job(start_jobs):
    run = start_jobs(trainings.quick)
    run.submit(0, stop=1)
    while not run.launcher.wait(1.0):
        pass
    run.launcher.reply(0, go_on=True, best=False)
    time.sleep(0.5)  # the job ends, but we have not read that yet
    run.launcher.interrupt(0)
    end, _ = run.to_end()
    assert end.outcome is Outcome.COMPLETED
    run.submit(1, stop=2)
    end, _ = run.to_end()
    assert end.outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (trainings.raises, "ValueError: x is 0.500"),
        (trainings.exits, "SystemExit: 3"),
        (trainings.exits_at_once, "the worker process died: exit code 7"),
        (trainings.dies_for_positive, "the worker process died: signal SIGKILL"),
        (trainings.returns_early, "the training returned after reporting epoch 1 of 3"),
        (trainings.says_nothing, "the training returned after reporting epoch 0 of 3"),
        (trainings.reports_backwards, "StudyError: report: epoch 1 after epoch 2; epochs must ascend"),
        (trainings.reports_text, "StudyError: report: loss must be a number, got str 'low'"),
    ],
)
def test_whatever_goes_wrong_ends_as_a_failure_with_its_reason(start_jobs, train, reason):
    run = start_jobs(train)
    run.submit()
    end, _ = run.to_end()
    assert (end.outcome, end.reason) == (Outcome.FAILED, reason)


def test_a_failure_brings_the_end_of_its_traceback(start_jobs):
    run = start_jobs(trainings.raises)
    run.submit()
    end, _ = run.to_end()
    assert "trainings.py" in end.details
    assert end.details.rstrip().endswith("and more")


def test_a_dead_worker_brings_the_end_of_its_output_and_is_replaced(start_jobs):
    run = start_jobs(trainings.dies_for_positive)
    run.submit(0, {"x": 0.5})
    end, _ = run.to_end()
    assert "about to die" in end.details
    run.submit(1, {"x": -0.5})
    end, _ = run.to_end()
    assert (end.trial_id, end.outcome) == (1, Outcome.COMPLETED)


def test_a_killed_trial_fails_with_the_given_reason(start_jobs):
    run = start_jobs(trainings.endless_epoch)
    run.submit()
    run.until(lambda event: isinstance(event, Reported))
    run.launcher.reply(0, go_on=True, best=False)
    run.launcher.kill(0, "took too long")
    end, _ = run.to_end()
    assert (end.outcome, end.reason) == (Outcome.FAILED, "took too long")


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


def test_a_worker_that_dies_before_its_child_takes_it_along_and_is_heard_to_the_end(start_jobs, wait_for):
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
    wait_for(lambda: not is_alive(child))


def forks_and_dies_at_its_report(trial):
    child = os.fork()
    if child == 0:
        time.sleep(3600)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    trial.report(1, child=child)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_is_killed_while_it_starts_does_not_cost_its_job(start_jobs):
    run = start_jobs(trainings.quick)
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


def test_a_busy_slot_takes_no_second_job(start_jobs):
    run = start_jobs(trainings.quick)
    slot = run.launcher.free_slot
    run.submit()
    assert run.launcher.free_slot is None
    with pytest.raises(RuntimeError, match="slot 0 is busy with trial 0"):
        run.launcher.submit(slot, TrialJob(1, {}, 0, 1, 0, ""))


def test_threads_and_gpus_are_divided():
    slots = make_slots(4, ["0", "3", "GPU-x"], 8)
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3", "GPU-x", "0"]
    assert [slot.gpus for slot in slots] == [0.5, 1.0, 1.0, 0.5]
    assert {slot.device for slot in slots} == {"cuda:0"}
    assert {slot.env["OMP_NUM_THREADS"] for slot in slots} == {"2"}
    [slot] = make_slots(1, [], 8)
    assert (slot.device, slot.gpus, slot.env["OMP_NUM_THREADS"]) == ("cpu", 0.0, "8")


def test_workers_must_be_positive():
    with pytest.raises(ConfigError, match="workers: must be 1 or more, got 0"):
        LocalLauncher(0)
