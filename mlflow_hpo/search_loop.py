"""SearchLoop: hands out the jobs of a study, and takes what becomes of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any

from mlflow_hpo.arrivals import Arrivals
from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.conclusion import check_failures
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.errors import StudyError
from mlflow_hpo.feasibility import Feasibility
from mlflow_hpo.idle_gpus import IdleGpus
from mlflow_hpo.launchers.base import (
    Cause,
    CheckpointStored,
    Ended,
    Event,
    Heartbeat,
    Launcher,
    Outcome,
    Renewed,
    Reported,
    Sampled,
    Slot,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.early_return import returned_early
from mlflow_hpo.launchers.replay import ReplayLauncher
from mlflow_hpo.ledger import TrialEntry
from mlflow_hpo.metalearning.portfolio import config_key
from mlflow_hpo.optimizer import Job, Optimizer
from mlflow_hpo.recording import STOPPED_BY_SCHEDULER
from mlflow_hpo.resumption import Resumption
from mlflow_hpo.retries import Retries
from mlflow_hpo.schedulers.base import Decision
from mlflow_hpo.seeds import trial_seed
from mlflow_hpo.tracking.runs import TrialRun
from mlflow_hpo.tracking.tracker import Tracker, writable
from mlflow_hpo.voice import Voice

TICK = 0.5  # seconds: how often limits and the view are looked at while nothing happens
GRACE = 10.0  # seconds that an interrupted trial gets to store its checkpoint
UPLOAD_PATIENCE = 3600.0  # seconds that the end of a study waits for checkpoints on their way to the store
MISLED = "the losses contradict what earlier tasks led to expect: the history is forgotten"
GOAL_REACHED = "goal reached"  # why a study, or a trial in it, ended


class SearchLoop:
    """Runs jobs until the search is over, its budget is spent, or it is interrupted.

    Used by the study's thread only.

    Args:
        config: the study's settings.
        optimizer: decides which jobs there are.
        launcher: runs them.
        books: writes down what becomes of them.
        tracker: the study's runs.
        voice: tells what happens.
        interrupted: set, from any thread, when the user wants the end.
        meanwhile: called a few times a second while the study makes new history.
        resumption: what the study goes on from; None for a new one.
        origins: task and run of what was good on earlier tasks, by configuration; each is told once.

    Attributes:
        feasibility: which trials break the constraints.
        stopping: why no more jobs are handed out, "" while they are.
    """

    def __init__(
        self,
        config: StudyConfig,
        optimizer: Optimizer,
        launcher: Launcher,
        books: Bookkeeper,
        tracker: Tracker,
        voice: Voice,
        interrupted: threading.Event,
        meanwhile: Callable[[], None],
        *,
        resumption: Resumption | None,
        origins: MutableMapping[Any, str],
    ) -> None:
        self._launcher = launcher
        self.feasibility = Feasibility(config.constraints)
        self.stopping = ""
        self._config = config
        self._optimizer = optimizer
        self._books = books
        self._tracker = tracker
        self._voice = voice
        self._interrupted = interrupted
        self._meanwhile = meanwhile
        self._resumption = resumption
        self._origins = origins
        self._replay: ReplayLauncher | None = None
        self._retries = Retries(config.max_retries)
        self._arrivals = Arrivals(self._arrived)
        self._idle_gpus = IdleGpus()
        self._deadline = 0.0  # until when running trials may store a checkpoint, once stopping
        self._overdue: set[int] = set()  # trials that did not make it by then
        self._misled = False  # whether it was told that the history misleads
        self._looked = 0.0  # when the limits of the running trials were last looked at
        self._away: float | None = None  # seconds for which the tracking store has been away

    @property
    def replaying(self) -> bool:
        """Whether what is recorded of the study is told again: nothing new has happened."""
        return self._resumption is not None and not self._resumption.live

    def begin(self) -> Launcher:
        """Return the launcher to start: of a study that goes on, one that tells what is recorded first."""
        if self._resumption is not None:
            self._launcher = self._replay = self._resumption.begin(
                *(self._config, self._optimizer, self._books, self._launcher, self._go_live)
            )
        return self._launcher

    def _go_live(self) -> None:
        """The record is told: from here on the study makes new history."""
        if self._resumption is None or self._resumption.live:
            return
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        lines = self._resumption.go_live(self._config, self._books, self._tracker)
        self._voice.muted = False
        for line in lines:
            self._voice.tell(line)

    def run(self) -> None:
        """Run until nothing is left to do.

        Raises:
            StudyError: the metric is not reported, too many trials failed, or the stores refuse something.
            LeaseLostError: another driver has taken the study over.
            KeyboardInterrupt: the study was interrupted before it made new history.
        """
        running = self._books.ledger.running
        while True:
            if not self.stopping:
                self._hand_out()
            if self._replay is not None and self._replay.at_end:
                self._catch_up(self._replay)
            if not running and (self.stopping or not self._may_go_on):
                for trial_id in self._retries.give_up():  # until the study is resumed
                    self._books.interrupted(trial_id)
                self._go_live()
                return
            for event in self._arrivals.admit(self._launcher.wait(TICK)):
                self._take(event)
            self._look_at_limits()
            if not self.replaying:
                self._meanwhile()
            self._voice.ticked()

    def _hand_out(self) -> None:
        """Fill the free slots. A new trial begins at once; what it tells is heard when its run is there."""
        while self._launcher.free_slot is not None and (job := self._next_job()) is not None:
            self._begin(job, self._launcher.slot_for(job.config))

    def _catch_up(self, replay: ReplayLauncher) -> None:
        """Let a trial go on that is known to have, though this time the search has decided otherwise.

        What several workers told can have been heard in another order than it is told again.
        """
        if (job := self._optimizer.catch_up()) is not None:
            self._begin(job, replay.extra_slot(job.trial_id))

    def _begin(self, job: Job, slot: Slot) -> None:
        seed = trial_seed(self._config.seed, job.trial_id)
        origin = "" if job.start else self._origins.pop(config_key(job.config), "")
        entry = self._books.start(job, seed, slot, origin)
        coming = entry.coming
        self._launcher.submit(
            slot,
            TrialJob(
                *(job.trial_id, job.config, job.start, job.stop, seed),
                *(entry.location, entry.samples, job.rung, entry.run_id, entry.fresh),
                reached=entry.reported,
                watched=self._config.heartbeat_timeout is not None,
                metric=self._config.metric.name,
            ),
        )
        if coming is not None:
            self._arrivals.expect(job.trial_id, coming)

    @property
    def _may_go_on(self) -> bool:
        """Whether jobs may come while none runs: some wait, or there is no slot yet that could take one."""
        return bool(self._retries) or self._launcher.free_slot is None

    def _next_job(self) -> Job | None:
        return self._retries.next() or self._optimizer.ask()

    def _arrived(self, trial_id: int, run: TrialRun) -> None:
        """The run of a trial is there."""
        self._books.ledger.trials[trial_id].arrived(run)
        self._launcher.located(trial_id, run.location, run.run_id)

    def _give_up_waiting(self) -> None:
        """Leave the trials alone whose runs do not come; they are handed out again on a resume."""
        for trial_id in list(self._books.ledger.running):
            self._books.ledger.ended(trial_id, 0.0)
            self._books.interrupted(trial_id)

    def _take(self, event: Event) -> None:
        entry = self._books.ledger.trials[event.trial_id]
        match event:
            case Reported():
                self._take_report(event, entry)
            case Heartbeat(_, waits):
                entry.alive = math.inf if waits else time.monotonic()
            case Sampled(_, number, metrics, sampled):
                entry.samples = number + 1
                self._idle_gpus.sampled(metrics, entry.slot.env.get("CUDA_VISIBLE_DEVICES"))
                self._tracker.metrics(entry.run_id, metrics, step=number, time=sampled)
            case CheckpointStored(trial_id, epoch, name):
                self._books.checkpoint_stored(trial_id, epoch, name)
            case Warned(trial_id, message):
                self._tracker.tags(entry.run_id, {"hpo.warning": message})
                self._voice.tell(f"trial {trial_id}: {message}")
            case Renewed(trial_id, goes_on):
                seed = trial_seed(self._config.seed, trial_id)
                self._arrivals.expect(trial_id, self._books.renewed(trial_id, seed, goes_on=goes_on))
            case Ended():
                self._take_end(event, entry)

    def _take_report(self, event: Reported, entry: TrialEntry) -> None:
        metric, trial_id, epoch = self._config.metric.name, event.trial_id, event.epoch
        if metric not in event.metrics:
            problem = (
                f"metric: {metric!r} is not among what the training reports at epoch {epoch}: "
                + ", ".join(sorted(event.metrics))
            )
            if all(record.value is None for record in self._optimizer.trials.values()):
                self._voice.tell(
                    f"trial {trial_id}: failed, without {metric}; no trial has told it yet, so the study ends"
                )
                raise StudyError(problem)
            self._launcher.kill(trial_id, problem)  # others do report it
            return
        if epoch > entry.job.stop:
            self._launcher.kill(trial_id, f"reported epoch {epoch}, behind its last, {entry.job.stop}")
            return
        go_on = not self.stopping
        if news := self._books.ledger.trained(trial_id, epoch):
            broken = self.feasibility.judge(trial_id, event.metrics)
            if absent := self.feasibility.newly_absent(trial_id):
                self._voice.warn(f"trial {trial_id}: {absent}; it is infeasible until it does")
            decision = self._optimizer.report(trial_id, epoch, event.metrics[metric], feasible=not broken)
            if decision is Decision.STOP:
                by = GOAL_REACHED if self._optimizer.goal_reached else STOPPED_BY_SCHEDULER
                entry.reason = f"{by} at epoch {epoch}"
                go_on = False
            self._books.reported(trial_id, epoch, event.metrics, event.time, broken=broken)
            self._tell_if_misled()
        best = self._optimizer.best
        improved = best is not None and (best.trial_id, best.resource) == (trial_id, epoch)
        self._launcher.reply(trial_id, go_on=go_on, best=improved)
        entry.alive = time.monotonic()
        if improved and news:
            if not self.replaying:
                self._books.progress()  # so that it is seen after how many epochs it was found
            self._voice.tell(
                f"trial {trial_id}: best {metric} so far, {event.metrics[metric]:.6g} at epoch {epoch}"
            )

    def _tell_if_misled(self) -> None:
        """Tell, once, that the warm start did not help."""
        if self._misled or not self._optimizer.misled:
            return
        self._misled = True
        self._voice.tell(f"warm start: {MISLED}")
        if not self.replaying:
            self._tracker.tags(self._tracker.run_id, {"hpo.warm_start_misled": MISLED})

    def _take_end(self, event: Ended, entry: TrialEntry) -> None:
        trial_id, books = event.trial_id, self._books
        books.ledger.ended(trial_id, event.seconds)
        if event.outcome is Outcome.UNFINISHED:
            self._retries.put_off(entry.job)
            return
        if not self.replaying:  # what is recorded was done before
            entry.worked()
        cause = self._retries.cause(event)
        if event.outcome is Outcome.FAILED and entry.reason and cause is not Cause.TRAINING:
            # it had been told to stop anyway
            event, cause = replace(event, outcome=Outcome.STOPPED, reason=""), Cause.TRAINING
        short = entry.reported < entry.job.stop
        reason = writable(event.reason)
        if event.outcome is Outcome.COMPLETED and short:
            reason = returned_early(self._config.metric.name, entry.reported, entry.job.stop)
        elif event.outcome is Outcome.STOPPED and short and not entry.reason and not self.stopping:
            reason = f"the training raised TrialStopped by itself after epoch {entry.reported}"
        paused_by_us = event.outcome is Outcome.STOPPED and short and not entry.reason
        if not (
            reason or paused_by_us or self._optimizer.goal_reached
        ):  # those may have had it still to come
            reason = self.feasibility.absent(trial_id)
        if trial_id in self._overdue or (paused_by_us and not reason):
            books.interrupted(trial_id)
        elif reason and not self._optimizer.goal_reached and self._retries.take(cause, reason, entry):
            self._voice.tell(f"trial {trial_id}: {books.tried_again(trial_id, reason)}")
            return
        elif reason:
            self._optimizer.fail(trial_id, reason)
            books.failed(trial_id, reason, event.details)
        else:
            self._optimizer.complete(trial_id)
            books.completed(trial_id)
        for eliminated in books.eliminations():
            self._launcher.forget(eliminated)
        if entry.status != "SCHEDULED":
            self._launcher.forget(trial_id)
        self._voice.tell(books.in_words(trial_id))
        check_failures(books.ledger, self._config.max_failures, any_value=self._optimizer.best is not None)

    def settle_uploads(self) -> int:
        """Wait for checkpoints that are on their way to the store; return how many are still.

        An interrupted study waits `GRACE` seconds for them.
        """
        deadline = time.monotonic() + (GRACE if self._interrupted.is_set() else UPLOAD_PATIENCE)
        while self._launcher.uploads and time.monotonic() < deadline:
            self._tracker.check_lease()
            for event in self._arrivals.admit(self._launcher.drain(TICK)):
                self._take(event)
        return self._launcher.uploads

    # --- limits

    def _look_at_limits(self) -> None:
        if self.replaying:  # what was spent is restored afterwards
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            return
        self._tracker.check_lease()
        self._look_at_store()
        ledger = self._books.ledger
        if not self.stopping and (why := "interrupted" if self._interrupted.is_set() else ledger.exhausted()):
            self._stop(why)
        now = time.monotonic()
        if now - self._looked >= TICK:  # not at each event of thousands of trials
            self._looked = now
            self._look_at_gpus(now)
            self._look_at_trials(now)

    def _look_at_trials(self, now: float) -> None:
        """Kill the trials that take too long; once the study stops, give up those whose runs do not come."""
        ledger, at_work = self._books.ledger, self._at_work()
        if self.stopping and now > self._deadline and not at_work:
            self._give_up_waiting()
        patience = self._config.heartbeat_timeout or math.inf
        timeout = self._config.trial_timeout or math.inf
        for trial_id in at_work:
            entry = ledger.trials[trial_id]
            if now - entry.heard > timeout:
                self._launcher.kill(trial_id, f"trial_timeout: the job took longer than {timeout:g} seconds")
            elif now - entry.alive > patience:
                self._retries.hung(trial_id)
                why = f"no sign of life for {patience:g} seconds after epoch {entry.trained}"
                self._launcher.kill(trial_id, f"heartbeat_timeout: {why}")
            elif self.stopping and now > self._deadline:
                self._overdue.add(trial_id)  # what it stored before is what it can go on from
                self._launcher.kill(trial_id, f"did not end within {GRACE:g} seconds")

    def _at_work(self) -> list[int]:
        """Return the trials that a worker has, which are not all whose jobs are not booked as ended."""
        running = self._books.ledger.running
        return [trial_id for trial_id in running if not self._arrivals.ended(trial_id)]

    def _look_at_store(self) -> None:
        """Say when the tracking store goes away and comes back; running trials go on meanwhile."""
        before, self._away = self._away, self._tracker.away
        if before is None and self._away is not None:
            self._voice.warn("the tracking store is away: what is measured is kept on disk, new trials wait")
        elif before is not None and self._away is None:
            message = f"the tracking store was away for {before:.0f} seconds"
            self._tracker.tags(self._tracker.run_id, {"hpo.warning": message})
            self._voice.warn(f"{message}; nothing is lost")

    def _look_at_gpus(self, now: float) -> None:
        busy, uploads = len(self._books.ledger.running), self._launcher.uploads
        if why := self._idle_gpus.look(now, busy=busy, slots=len(self._launcher.slots), uploads=uploads):
            self._tracker.tags(self._tracker.run_id, {"hpo.warning": why})
            self._voice.warn(why)

    def _stop(self, reason: str) -> None:
        """Hand out no more jobs, and pause the running ones."""
        self.stopping = reason
        self._deadline = time.monotonic() + GRACE
        self._voice.tell(f"stopping: {reason}")
        for trial_id in self._at_work():
            self._launcher.interrupt(trial_id)
