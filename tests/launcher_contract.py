"""What every launcher of Python functions must do: tests to be run on each."""

import shutil
import time

import pytest

from mlflow_hpo.launchers.base import Cause, CheckpointStored, Ended, Outcome, Reported, Sampled, Warned


def stored(events):
    return [event.epoch for event in events if isinstance(event, CheckpointStored)]


def reported(events):
    return [event.epoch for event in events if isinstance(event, Reported)]


class LauncherContract:
    """Derive a class whose fixture `run` is a `launching.NamedRun`, the same for all of its tests."""

    def test_a_job_reports_every_epoch(self, run):
        run.begin("quick")
        end, events = run.to_end()
        assert (end.trial_id, end.outcome, end.reason) == (run.trial_id, Outcome.COMPLETED, "")
        assert reported(events) == [1, 2, 3]

    def test_the_machine_is_sampled_even_where_a_job_ends_before_a_sample_is_due(self, run):
        run.begin("slow", stop=6)  # more than half a second, and less than a whole one
        _, events = run.to_end()
        samples = [event for event in events if isinstance(event, Sampled)]
        assert samples[0].metrics == {"system/test": 1.0}
        assert samples[0].number == 0

    def test_a_promoted_trial_goes_on_from_its_checkpoint(self, run):
        run.begin("with_checkpoints", stop=2)
        _, events = run.to_end()
        assert stored(events) == [2]
        run.go_on("with_checkpoints", start=2, stop=4)
        _, events = run.to_end()
        reports = [event for event in events if isinstance(event, Reported)]
        assert [(event.epoch, event.metrics["length"]) for event in reports] == [(3, 3), (4, 4)]

    def test_where_it_was_trained_before_its_copy_serves(self, run):
        run.begin("with_checkpoints", stop=2)
        run.to_end()
        shutil.rmtree(run.store)
        run.go_on("with_checkpoints", start=2, stop=3)
        _, events = run.to_end()
        assert reported(events) == [3]

    def test_the_best_epochs_checkpoint_is_stored_beside_the_newest(self, run):
        run.begin("with_checkpoints")
        run.until(lambda event: isinstance(event, Reported))
        run.launcher.reply(run.trial_id, go_on=True, best=True)
        _, events = run.to_end()
        assert stored(events) == [1, 3]

    def test_a_corrupt_checkpoint_falls_back_to_the_one_before(self, run):
        run.begin("with_checkpoints", stop=2)
        run.to_end()
        (run.store / "3.corrupt").touch()
        run.go_on("with_checkpoints", start=3, stop=4)
        end, events = run.to_end()
        assert end.outcome is Outcome.COMPLETED
        [warning] = [event for event in events if isinstance(event, Warned)]
        assert warning.message.startswith("checkpoint of epoch 3 is corrupt")
        assert reported(events) == [3, 4]

    def test_without_any_intact_checkpoint_training_begins_from_scratch(self, run):
        run.begin("quick", stop=2)
        run.to_end()
        run.store.mkdir()
        (run.store / "2.corrupt").touch()
        run.go_on("with_checkpoints", start=2, stop=3)
        _, events = run.to_end()
        warnings = [event.message for event in events if isinstance(event, Warned)]
        assert warnings[-1] == "no intact checkpoint for epoch 2: training from scratch"
        assert reported(events) == [1, 2, 3]

    def test_told_to_stop_a_trial_stores_its_checkpoint_and_ends(self, run):
        run.begin("with_checkpoints", stop=9)
        end, events = run.to_end(go_on=False)
        assert end.outcome is Outcome.STOPPED
        assert stored(events) == [1]

    def test_careless_training_stops_all_the_same(self, run):
        run.begin("swallows_everything", stop=1000)
        end, events = run.to_end(go_on=False)
        assert end.outcome is Outcome.STOPPED
        assert reported(events) == [1]

    def test_an_interrupt_ends_a_trial_in_the_middle_of_an_epoch(self, run):
        run.begin("endless_epoch", stop=9)
        run.until(lambda event: isinstance(event, Reported))
        run.launcher.reply(run.trial_id, go_on=True, best=False)
        time.sleep(0.3)  # let it enter the endless epoch
        run.launcher.interrupt(run.trial_id)
        end, events = run.to_end()
        assert end.outcome is Outcome.STOPPED
        assert stored(events) == [1]

    def test_a_late_interrupt_does_not_hit_the_next_job(self, run):
        run.begin("quick", stop=1)
        run.until(lambda event: isinstance(event, Reported))
        run.launcher.reply(run.trial_id, go_on=True, best=False)
        time.sleep(0.5)  # the job ends, but we have not read that yet
        run.launcher.interrupt(run.trial_id)
        end, _ = run.to_end()
        assert end.outcome is Outcome.COMPLETED
        run.begin("quick", stop=2)
        end, _ = run.to_end()
        assert end.outcome is Outcome.COMPLETED

    @pytest.mark.parametrize(
        ("train", "reason"),
        [
            ("raises", "ValueError: x is 0.500"),
            ("exits", "SystemExit: 3"),
            ("exits_at_once", "the worker process died: exit code 7"),
            ("returns_early", "the training returned after reporting epoch 1 of 3"),
            (
                "says_nothing",
                "the training returned without calling trial.report(epoch, ...); "
                "values logged by mlflow.log_metric do not count",
            ),
            ("reports_backwards", "StudyError: report: epoch 1 after epoch 2; epochs must ascend"),
            ("reports_text", "StudyError: report: loss must be a number, got str 'low'"),
        ],
    )
    def test_whatever_goes_wrong_ends_as_a_failure_with_its_reason(self, run, train, reason):
        run.begin(train)
        end, _ = run.to_end()
        assert (end.outcome, end.reason) == (Outcome.FAILED, reason)

    def test_a_failure_brings_the_end_of_its_traceback(self, run):
        run.begin("raises")
        end, _ = run.to_end()
        assert end.cause is Cause.TRAINING
        assert "trainings.py" in end.details
        assert end.details.rstrip().endswith("and more")

    def test_a_dead_worker_brings_the_end_of_its_output_and_is_replaced(self, run):
        run.begin("dies_for_positive", {"x": 0.5})
        end, _ = run.to_end()
        assert (end.outcome, end.cause) == (Outcome.FAILED, Cause.LOST)
        assert end.reason == "the worker process died: signal SIGKILL"
        assert "about to die" in end.details
        run.begin("dies_for_positive", {"x": -0.5})
        end, _ = run.to_end()
        assert (end.trial_id, end.outcome) == (run.trial_id, Outcome.COMPLETED)

    def test_a_killed_trial_fails_with_the_given_reason(self, run):
        run.begin("unstoppable")
        run.until(lambda event: isinstance(event, Reported))
        run.launcher.reply(run.trial_id, go_on=True, best=False)
        run.launcher.kill(run.trial_id, "took too long")
        end, _ = run.to_end()
        assert (end.outcome, end.reason) == (Outcome.FAILED, "took too long")

    def test_a_busy_slot_takes_no_other_job(self, run):
        run.begin("quick", stop=1)
        slot = run.launcher.slots[0]
        assert run.launcher.free_slot is None
        with pytest.raises(RuntimeError, match="slot 0 is"):
            run.launcher.submit(slot, None)
        end, _ = run.to_end()
        assert isinstance(end, Ended)
        assert run.launcher.free_slot is slot
