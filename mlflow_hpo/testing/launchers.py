"""What every launcher of Python functions must do."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_hpo.launchers import LAUNCHERS
from mlflow_hpo.launchers.base import Cause, Ended, Event, Launcher, Outcome, Reported, TrialJob
from mlflow_hpo.launchers.nowhere import Nowhere
from mlflow_hpo.trial import Trial

PATIENCE = 120.0  # seconds that a test waits for an event


def counts(trial: Trial) -> None:
    """Report the numbers of the epochs, and what came with the job."""
    for epoch in trial.epochs():
        trial.report(epoch, loss=1.0 / epoch, x=trial.params["x"], seed=trial.seed)


def raises(trial: Trial) -> None:
    """Fail after the first epoch."""
    trial.report(1, loss=1.0)
    raise ValueError("on purpose")


def endless(trial: Trial) -> None:
    """Never end the second epoch."""
    trial.report(1, loss=1.0)
    while True:
        time.sleep(0.02)


class Session:
    """A launcher at work on one training; jobs are of trials 0, 1, 2, ... in turn."""

    def __init__(self, launcher: Launcher, train: Callable[[Trial], None], folder: Path) -> None:
        self.launcher = launcher
        self.events: list[Event] = []
        self._folder = folder
        self._next = 0
        launcher.check(train)
        launcher.start(train, Nowhere(), folder)

    def submit(self, *, start: int = 0, stop: int = 3) -> int:
        """Hand a job to the first slot that is free, and return its trial."""
        trial_id, self._next = self._next, self._next + 1
        self.until(lambda: self.launcher.free_slot is not None)
        slot = self.launcher.free_slot
        assert slot is not None
        location = str(self._folder / f"trial-{trial_id}")
        job = TrialJob(trial_id, {"x": 0.5}, start, stop, 7, location, run_id=f"run-{trial_id}")
        self.launcher.submit(slot, job)
        return trial_id

    def until(self, condition: Callable[[], object], then: Callable[[], None] = lambda: None) -> None:
        """Wait for events until a condition holds, and do something after each look."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"nothing more came after {self.events}"
            self.events += self.launcher.wait(0.1)
            then()

    def reports(self, trial_id: int) -> list[Reported]:
        """Return what a trial has reported so far."""
        return [each for each in self.events if isinstance(each, Reported) and each.trial_id == trial_id]

    def ends(self, trial_id: int) -> list[Ended]:
        """Return the ends of a trial that were told so far."""
        return [each for each in self.events if isinstance(each, Ended) and each.trial_id == trial_id]

    def to_end(self, trial_id: int, *, go_on: bool = True) -> Ended:
        """Answer each report of a trial until it ends, and return its end."""
        answered = 0

        def answer() -> None:
            nonlocal answered
            for _ in self.reports(trial_id)[answered:]:
                self.launcher.reply(trial_id, go_on=go_on, best=False)
                answered += 1

        answer()
        self.until(partial(self.ends, trial_id), answer)
        (end,) = self.ends(trial_id)
        return end


class LauncherConformance:
    """Derive a class whose name begins with `Test`, and set `launcher`.

    Attributes:
        launcher: its name, as ``launcher`` in search.yaml has it.
        workers: that it is asked for.
    """

    launcher = "local"
    workers = 2

    @contextlib.contextmanager
    def session(self, train: Callable[[Trial], None]) -> Iterator[Session]:
        """Start the launcher under test, and close it at the end."""
        launcher: Launcher = LAUNCHERS.get(self.launcher)(self.workers)
        with (
            tempfile.TemporaryDirectory(prefix="mlflow-hpo-conformance-") as folder,
            contextlib.closing(launcher),
        ):
            yield Session(launcher, train, Path(folder))

    def test_has_the_slots_that_it_was_asked_for(self) -> None:
        launcher: Any = LAUNCHERS.get(self.launcher)(self.workers)
        assert len(launcher.slots) == self.workers
        assert len({slot.number for slot in launcher.slots}) == self.workers
        launcher.close()

    def test_jobs_report_every_epoch_in_order(self) -> None:
        with self.session(counts) as session:
            first, second = session.submit(), session.submit(start=2, stop=4)
            session.until(lambda: bool(session.reports(first) and session.reports(second)))
            assert session.launcher.free_slot is None or self.workers > 2
            for trial_id in (first, second):
                end = session.to_end(trial_id)
                assert (end.outcome, end.reason) == (Outcome.COMPLETED, "")
            reported = [(each.epoch, each.metrics) for each in session.reports(first)]
            metrics = {"x": 0.5, "seed": 7.0}
            assert reported == [(epoch, {"loss": 1.0 / epoch, **metrics}) for epoch in (1, 2, 3)]
            # without a checkpoint of epoch 2 it has begun again
            assert [each.epoch for each in session.reports(second)] == [1, 2, 3, 4]
            assert session.launcher.free_slot is not None

    def test_told_to_stop_a_trial_ends(self) -> None:
        with self.session(counts) as session:
            trial_id = session.submit(stop=9)
            end = session.to_end(trial_id, go_on=False)
            assert end.outcome is Outcome.STOPPED
            assert [each.epoch for each in session.reports(trial_id)] == [1]

    def test_a_training_that_raises_fails_with_its_reason(self) -> None:
        with self.session(raises) as session:
            end = session.to_end(session.submit())
            assert (end.outcome, end.cause, end.reason) == (
                Outcome.FAILED,
                Cause.TRAINING,
                "ValueError: on purpose",
            )
            assert "on purpose" in end.details

    def test_a_trial_is_interrupted_in_mid_epoch_and_killed(self) -> None:
        with self.session(endless) as session:
            for end_it, outcome in (
                (session.launcher.interrupt, Outcome.STOPPED),
                (lambda trial_id: session.launcher.kill(trial_id, "took too long"), Outcome.FAILED),
            ):
                trial_id = session.submit(stop=9)
                session.until(partial(session.reports, trial_id))
                session.launcher.reply(trial_id, go_on=True, best=False)
                end_it(trial_id)
                session.until(partial(session.ends, trial_id))
                (end,) = session.ends(trial_id)
                assert end.outcome is outcome
            assert end.reason == "took too long"

    def test_a_busy_slot_takes_no_other_job(self) -> None:
        with self.session(counts) as session:
            trial_id = session.submit()
            slot = next(each for each in session.launcher.slots if each != session.launcher.free_slot)
            job = TrialJob(99, {"x": 0.5}, 0, 3, 7, "")
            try:
                session.launcher.submit(slot, job)
            except RuntimeError:
                pass
            else:
                raise AssertionError("the slot was busy")
            assert session.to_end(trial_id).outcome is Outcome.COMPLETED

    def test_what_is_said_to_a_trial_that_is_over_has_no_effect(self) -> None:
        with self.session(counts) as session:
            over = session.submit(stop=1)
            session.to_end(over)
            session.launcher.reply(over, go_on=False, best=False)
            session.launcher.interrupt(over)
            session.launcher.kill(over, "too late")
            assert session.to_end(session.submit()).outcome is Outcome.COMPLETED
            assert len(session.ends(over)) == 1

    def test_closing_twice_is_fine_also_in_the_middle_of_a_job(self) -> None:
        with self.session(endless) as session:
            trial_id = session.submit(stop=9)
            session.until(partial(session.reports, trial_id))
            session.launcher.close()
            session.launcher.close()
