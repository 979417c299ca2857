"""Study: the loop that joins optimizer, launcher and tracker; `tune` is its one-call face."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack

import numpy as np

from mlflow_hpo.arrivals import Arrivals
from mlflow_hpo.auto import choose, is_auto, named
from mlflow_hpo.background import Background
from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.conclusion import check_failures, log_model, why_no_best
from mlflow_hpo.config import StudyConfig, StudyKeys
from mlflow_hpo.errors import ConfigError, StoreAwayError, StudyError
from mlflow_hpo.feasibility import Feasibility
from mlflow_hpo.idle_gpus import IdleGpus
from mlflow_hpo.launchers import LAUNCHERS
from mlflow_hpo.launchers.base import (
    Cause,
    CheckpointStored,
    Ended,
    Event,
    Heartbeat,
    Outcome,
    Renewed,
    Reported,
    Sampled,
    Slot,
    Trainable,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.choice import choose_launcher
from mlflow_hpo.launchers.mps import mps_in_words
from mlflow_hpo.launchers.project_contract import Project
from mlflow_hpo.launchers.replay import ReplayLauncher
from mlflow_hpo.ledger import TrialEntry
from mlflow_hpo.metalearning.portfolio import config_key
from mlflow_hpo.metalearning.warm_start import WarmStart
from mlflow_hpo.notes import Notes
from mlflow_hpo.optimizer import BestTrial, Job
from mlflow_hpo.preparation import describe, make_optimizer, mined_warm_start, parent_run
from mlflow_hpo.recording import STOPPED_BY_SCHEDULER, Recording
from mlflow_hpo.reporting import Reporting
from mlflow_hpo.resumption import Resumption, check_task, resumed_keys
from mlflow_hpo.retries import Retries
from mlflow_hpo.schedulers.base import Decision
from mlflow_hpo.scratch import scratch_folder
from mlflow_hpo.signals import interruptible
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.lease import LeaseLostError
from mlflow_hpo.tracking.recovery import read_recording
from mlflow_hpo.tracking.runs import TrialRun
from mlflow_hpo.tracking.summary import MODEL, StudySummary, whose_model
from mlflow_hpo.tracking.tracker import Tracker, writable
from mlflow_hpo.trial import Described, DescribedTraining

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

TICK = 0.5  # seconds: how often limits and the view are looked at while nothing happens
UPLOAD_PATIENCE = 3600.0  # seconds that the end of a study waits for checkpoints on their way to the store
GOAL_REACHED = "goal reached"  # why a study, or a trial in it, ended
GRACE = 10.0  # seconds that an interrupted trial gets to store its checkpoint

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Listener(Protocol):
    """Watches a study; called in its thread, so be quick."""

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """The parent run is there and the workers will start; `summary` tells the state at any time."""

    def happened(self, message: str) -> None:
        """One line about something that just happened."""

    def ticked(self) -> None:
        """Called a few times a second."""

    def ended(self) -> None:
        """The study is over and everything is written."""


class Study:
    """One search: a space, a training, a budget; every trial a nested MLflow run.

    Everything about the input is checked here, before anything is launched.

    Args:
        train: the training code, a function of one `Trial`; or, with the launcher "project", a project.
        space: the search space, unless it is among `keys`.
        listener: watches the study.
        resume: the parent run of a study that goes on, or what is recorded of it. Keys that are not given
            are as they were; `resumption.FIXED` must not be other. With another searcher, scheduler, resource
            or seed the trials so far are over, and a new search learns from them.
        take_over: resume it also where another driver may be at work on it.
        source: MLflow's tags for where the training code is from, where that is not this process.
        keys: the keys of search.yaml.

    Raises:
        ConfigError: something in `keys`, or in the data that the training wants, is wrong.
        StudyError: `warm_start` or `resume` is asked for and the stores cannot be used.
    """

    def __init__(
        self,
        train: Trainable | Project,
        space: SearchSpace | Mapping[str, Any] | None = None,
        /,
        *,
        listener: Listener | None = None,
        resume: str | Recording | None = None,
        take_over: bool = False,
        source: Mapping[str, str] | None = None,
        **keys: Unpack[StudyKeys],
    ) -> None:
        given: dict[str, Any] = dict(keys)
        if space is not None:
            given["space"] = space
        recording = read_recording(resume) if isinstance(resume, str) else resume
        if recording is not None:
            given = resumed_keys(recording, given)
        self._take_over = take_over
        self._source = dict(source or {})
        config = StudyConfig.parse(given)
        if set("/:") & set(config.register_as or ""):  # MLflow would refuse it, but only after the search
            raise ConfigError(
                "register", f"must be a name without '/' and ':', got {config.register_as!r:.80}"
            )
        choice = choose(
            config.space,
            config.searcher,
            config.scheduler,
            min_resource=config.min_resource,
            max_resource=config.max_resource,
            workers=config.workers,
        )
        self._choice = choice if is_auto(config.searcher) or is_auto(config.scheduler) else None
        # what is recorded runs the same search again, whatever a later version would choose
        components = {
            "searcher": named(config.searcher, choice.searcher),
            "scheduler": named(config.scheduler, choice.scheduler),
        }
        self._place = ""  # what "auto" is
        if is_auto(config.launcher):
            place, why = choose_launcher(
                *(train, config.space, config.workers, config.gpus_per_trial, config.max_memory_fraction)
            )
            components["launcher"] = named(config.launcher, place)
            self._place = f"launcher auto is {place}: {why}"
        self.config = config = config.model_copy(update=components)
        self._resumption = None if recording is None else Resumption(recording, config)
        self.optimizer = make_optimizer(config)
        self._launcher = LAUNCHERS.create(config.place, config.workers)
        self._launcher.jobs_per_worker = config.trials_per_worker
        self._retries = Retries(config.max_retries)
        self._launcher.check(train)
        self._train = train
        self._facts = describe(train, config)
        if recording is not None and isinstance(train, Described):
            check_task(recording, self._facts["data"])
        self._warm_start = mined_warm_start(config, self._facts)
        self._origins: dict[Any, str] = {}  # task and run of what was good before, by configuration
        if self._warm_start is not None:
            self._begin_with(self._warm_start)
        self._listener = listener
        self._begun = False
        self._open = threading.Event()  # its parent run is there
        self._background: Background | None = None
        self._status = "RUNNING"
        self._stopping = ""  # why no more jobs are handed out
        self._deadline = 0.0  # until when running trials may store a checkpoint, once stopping
        self._overdue: set[int] = set()  # trials that did not make it by then
        self._looked = 0.0  # when the limits of the running trials were last looked at
        self._interrupted = False
        self._searched = False  # nothing is left but to write down how it ended
        self._arrivals = Arrivals(self._arrived)
        self._away: float | None = None  # seconds for which the tracking store has been away
        self._replay: ReplayLauncher | None = None  # of a study that goes on
        self._feasibility = Feasibility(config.constraints)
        self._idle_gpus = IdleGpus()

    @property
    def best(self) -> BestTrial | None:
        """The best value that any trial reported so far."""
        return self.optimizer.best

    @property
    def warm_start(self) -> WarmStart | None:
        """What the study begins with, None if it was not asked to look."""
        return self._warm_start

    @property
    def run_id(self) -> str:
        """Id of the parent run, once the study runs."""
        return self._tracker.run_id

    def summary(self) -> StudySummary:
        """Return the state of the study as plain data, once it runs."""
        return self._books.summary(self._status, self._stopping)

    def trials_dataframe(self) -> pd.DataFrame:
        """Return the trials so far as a table, one a row: number, run, status, values, parameters and more.

        The columns are those of `mlflow-hpo export`; those of parameters are called ``params.NAME``.

        Raises:
            StudyError: the study has not begun.
        """
        from mlflow_hpo.reports.export import to_dataframe  # for those who look only

        self._check_open()
        return to_dataframe(self.summary())

    def figure(self, kind: str) -> Figure:
        """Return a figure of what MLflow holds of the study so far, for a notebook.

        Args:
            kind: "incumbent", "curves", "parallel" or "importance".

        Raises:
            ConfigError: there is no such figure, or plotly is not installed: extra ``[notebook]``.
            StudyError: the study has not begun, or the stores are unreachable.
        """
        from mlflow_hpo.reports import figures  # for those who look only
        from mlflow_hpo.tracking.details import read_details

        figures.check_kind(kind)
        self._check_open()
        return figures.figure(read_details(self.run_id, self._tracker.client), kind)

    def _repr_html_(self) -> str:
        """Return what a notebook shows of the study."""
        from mlflow_hpo.reports.notebook import study_html

        return study_html(self.summary()) if self._open.is_set() else "a study that has not begun"

    def _check_open(self) -> None:
        if not self._open.is_set():
            raise StudyError("the study has no trials yet: run() it first")

    def start(self) -> None:
        """Run the study in a thread of its own; return when its parent run is there, or it has failed.

        Meanwhile `summary`, `best`, `trials_dataframe` and `figure` tell how far it is.

        Raises:
            StudyError: it ran before.
        """
        if self._begun:
            raise StudyError("a study runs once: make a new one")
        self._background = Background(self.run, self._interrupt)
        while not (self._open.wait(TICK) or self._background.over):
            pass

    def wait(self, timeout: float | None = None) -> BestTrial:
        """Wait for the end of a study that was started; return and raise what `run` does.

        Ctrl-C, as a notebook's stop button sends it, ends the study in good order.

        Args:
            timeout: seconds; None for any.

        Raises:
            StudyError: it was not started.
            TimeoutError: it is not over yet.
        """
        if self._background is None:
            raise StudyError("the study was not started: start() it first")
        return self._background.wait(timeout)

    def run(self) -> BestTrial:
        """Run the study to its end and return the best trial.

        Raises:
            StudyError: the stores cannot be used, the metric is not reported, or no trial succeeded.
            StoreAwayError: the search is over, but the tracking store is away; what it lacks is on the disk.
            KeyboardInterrupt: SIGINT or SIGTERM came; running trials stored a checkpoint and are paused.
        """
        if self._begun:
            raise StudyError("a study runs once: make a new one")
        self._begun = True
        if self._resumption is None:
            about = parent_run(
                *(self._train, self.config, self._facts, self._choice, self._warm_start),
                self._launcher.threads,
            )
            self._tracker = Tracker.begin(**about, source=self._source)
        else:
            recording = self._resumption.recording
            self._tracker = Tracker.resume(recording, take_over=self._take_over, source=self._source)
        self._books = Bookkeeper(
            *(self.config, self.optimizer, self._tracker),
            slots=len(self._launcher.slots),
            trials_log=self._launcher.trials_log,
        )
        self._notes = Notes(self._books, self._tracker, self._warn)
        self._reporting = Reporting(self._books, self._tracker, self._warn, self.config.trials)
        self._open.set()
        mine = True  # whether the runs tell how this ended
        try:
            if self._resumption is not None:
                self._launcher = self._replay = self._resumption.begin(
                    *(self.config, self.optimizer, self._books, self._launcher, self._go_live)
                )
            if self._listener is not None:
                self._listener.started(self.summary)
            with (
                scratch_folder() as folder,
                contextlib.closing(self._launcher),
                interruptible(self._interrupt),
            ):
                services = self._tracker.services(self.config.metrics)
                self._launcher.start(self._train, services, folder)
                if self._choice is not None:
                    self._tell(f"auto is {self._choice}")
                if self._place:
                    self._tell(self._place)
                if self._warm_start is not None:
                    self._tell(f"warm start: {self._warm_start}")
                if about_mps := mps_in_words(self._launcher.slots):
                    self._tell(about_mps)
                if (size := self.optimizer.searcher.size) is not None:
                    self._tell(f"{self.summary().searcher} of {size} configurations")
                self._loop()
                self._searched = True
                self._conclude(folder)
            self._finish()
        except LeaseLostError:
            mine = False
            self._tracker.abandon()
            raise
        except BaseException as error:
            if self._searched and isinstance(error, StoreAwayError):
                self._write_finish()  # into what is kept on the disk
            elif self._replaying:  # nothing new has happened
                mine = False
                self._tracker.abandon()
                self._tracker.release_lease()
            else:
                self._abort(error)
            raise
        finally:
            self._tracker.close()
            if mine:
                self._reporting.leave()
            if self._listener is not None:
                self._listener.ended()
        if self._interrupted or self.best is None:
            raise KeyboardInterrupt
        return self.best

    def _begin_with(self, warm_start: WarmStart) -> None:
        """Let the optimizer know the history, and record which studies it comes from."""
        self._origins = warm_start.origins()
        self.config = self.config.model_copy(update={"warm_start": warm_start.studies})
        self.optimizer = make_optimizer(self.config, warm_start)

    # --- resuming

    @property
    def _replaying(self) -> bool:
        """Whether what is recorded of the study is told again: nothing new has happened."""
        return self._resumption is not None and not self._resumption.live

    def _go_live(self) -> None:
        """The record is told: from here on the study makes new history."""
        if self._resumption is None or self._resumption.live:
            return
        if self._interrupted:
            raise KeyboardInterrupt
        for line in self._resumption.go_live(self.config, self._books, self._tracker):
            self._tell(line)

    # --- the loop

    def _loop(self) -> None:
        running = self._books.ledger.running
        while True:
            if not self._stopping:
                self._hand_out()
            if self._replay is not None and self._replay.at_end:
                self._catch_up(self._replay)
            if not running and (self._stopping or not self._may_go_on):
                for trial_id in self._retries.give_up():  # until the study is resumed
                    self._books.interrupted(trial_id)
                self._go_live()
                return
            for event in self._arrivals.admit(self._launcher.wait(TICK)):
                self._take(event)
            self._look_at_limits()
            if not self._replaying:
                self._notes.take()
                self._reporting.take()
                self._books.keep_progress()
            if self._listener is not None:
                self._listener.ticked()

    def _hand_out(self) -> None:
        """Fill the free slots. A new trial begins at once; what it tells is heard when its run is there."""
        while self._launcher.free_slot is not None and (job := self._next_job()) is not None:
            self._begin(job, self._launcher.slot_for(job.config))

    def _catch_up(self, replay: ReplayLauncher) -> None:
        """Let a trial go on that is known to have, though this time the search has decided otherwise.

        What several workers told can have been heard in another order than it is told again.
        """
        if (job := self.optimizer.catch_up()) is not None:
            self._begin(job, replay.extra_slot(job.trial_id))

    def _begin(self, job: Job, slot: Slot) -> None:
        seed = trial_seed(self.config.seed, job.trial_id)
        origin = "" if job.start else self._origins.pop(config_key(job.config), "")
        entry = self._books.start(job, seed, slot, origin)
        coming = entry.coming
        self._launcher.submit(
            slot,
            TrialJob(
                *(job.trial_id, job.config, job.start, job.stop, seed),
                *(entry.location, entry.samples, job.rung, entry.run_id, entry.fresh),
                reached=entry.reported,
                watched=self.config.heartbeat_timeout is not None,
            ),
        )
        if coming is not None:
            self._arrivals.expect(job.trial_id, coming)

    @property
    def _may_go_on(self) -> bool:
        """Whether jobs may come while none runs: some wait, or there is no slot yet that could take one."""
        return bool(self._retries) or self._launcher.free_slot is None

    def _next_job(self) -> Job | None:
        return self._retries.next() or self.optimizer.ask()

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
                self._tell(f"trial {trial_id}: {message}")
            case Renewed(trial_id, goes_on):
                seed = trial_seed(self.config.seed, trial_id)
                self._arrivals.expect(trial_id, self._books.renewed(trial_id, seed, goes_on=goes_on))
            case Ended():
                self._take_end(event, entry)

    def _take_report(self, event: Reported, entry: TrialEntry) -> None:
        metric, trial_id, epoch = self.config.metric.name, event.trial_id, event.epoch
        if metric not in event.metrics:
            problem = (
                f"metric: {metric!r} is not among what the training reports at epoch {epoch}: "
                + ", ".join(sorted(event.metrics))
            )
            if all(record.value is None for record in self.optimizer.trials.values()):
                raise StudyError(problem)
            self._launcher.kill(trial_id, problem)  # others do report it
            return
        if epoch > entry.job.stop:
            self._launcher.kill(trial_id, f"reported epoch {epoch}, behind its last, {entry.job.stop}")
            return
        go_on = not self._stopping
        if news := self._books.ledger.trained(trial_id, epoch):
            broken = self._feasibility.judge(trial_id, event.metrics)
            if absent := self._feasibility.newly_absent(trial_id):
                self._warn(f"trial {trial_id}: {absent}; it is infeasible until it does")
            decision = self.optimizer.report(trial_id, epoch, event.metrics[metric], feasible=not broken)
            if decision is Decision.STOP:
                by = GOAL_REACHED if self.optimizer.goal_reached else STOPPED_BY_SCHEDULER
                entry.reason = f"{by} at epoch {epoch}"
                go_on = False
            self._books.reported(trial_id, epoch, event.metrics, event.time, broken=broken)
        improved = self.best is not None and (self.best.trial_id, self.best.resource) == (trial_id, epoch)
        self._launcher.reply(trial_id, go_on=go_on, best=improved)
        entry.alive = time.monotonic()
        if improved and news:
            self._tell(
                f"trial {trial_id}: best {metric} so far, {event.metrics[metric]:.6g} at epoch {epoch}"
            )

    def _take_end(self, event: Ended, entry: TrialEntry) -> None:
        trial_id, books = event.trial_id, self._books
        books.ledger.ended(trial_id, event.seconds)
        if event.outcome is Outcome.UNFINISHED:
            self._retries.put_off(entry.job)
            return
        if not self._replaying:  # what is recorded was done before
            entry.worked()
        cause = self._retries.cause(event)
        if event.outcome is Outcome.FAILED and entry.reason and cause is not Cause.TRAINING:
            # it had been told to stop anyway
            event, cause = replace(event, outcome=Outcome.STOPPED, reason=""), Cause.TRAINING
        short = entry.reported < entry.job.stop
        reason = writable(event.reason)
        if event.outcome is Outcome.COMPLETED and short:
            reason = f"the training returned after reporting epoch {entry.reported} of {entry.job.stop}"
        elif event.outcome is Outcome.STOPPED and short and not entry.reason and not self._stopping:
            reason = f"the training raised TrialStopped by itself after epoch {entry.reported}"
        paused_by_us = event.outcome is Outcome.STOPPED and short and not entry.reason
        if not (reason or paused_by_us or self.optimizer.goal_reached):  # those may have had it still to come
            reason = self._feasibility.absent(trial_id)
        if trial_id in self._overdue or (paused_by_us and not reason):
            books.interrupted(trial_id)
        elif reason and not self.optimizer.goal_reached and self._retries.take(cause, reason, entry):
            self._tell(f"trial {trial_id}: {books.tried_again(trial_id, reason)}")
            return
        elif reason:
            self.optimizer.fail(trial_id, reason)
            books.failed(trial_id, reason, event.details)
        else:
            self.optimizer.complete(trial_id)
            books.completed(trial_id)
        for eliminated in books.eliminations():
            self._launcher.forget(eliminated)
        if entry.status != "SCHEDULED":
            self._launcher.forget(trial_id)
        self._tell(books.in_words(trial_id))
        check_failures(books.ledger, self.config.max_failures, any_value=self.best is not None)

    # --- limits

    def _look_at_limits(self) -> None:
        if self._replaying:  # what was spent is restored afterwards
            if self._interrupted:
                raise KeyboardInterrupt
            return
        self._tracker.keep_lease()
        self._look_at_store()
        ledger = self._books.ledger
        if not self._stopping and (why := "interrupted" if self._interrupted else ledger.exhausted()):
            self._stop(why)
        now = time.monotonic()
        if now - self._looked >= TICK:  # not at each event of thousands of trials
            self._looked = now
            self._look_at_gpus(now)
            self._look_at_trials(now)

    def _look_at_trials(self, now: float) -> None:
        """Kill the trials that take too long; once the study stops, give up those whose runs do not come."""
        ledger, at_work = self._books.ledger, self._at_work()
        if self._stopping and now > self._deadline and not at_work:
            self._give_up_waiting()
        patience = self.config.heartbeat_timeout or math.inf
        timeout = self.config.trial_timeout or math.inf
        for trial_id in at_work:
            entry = ledger.trials[trial_id]
            if now - entry.heard > timeout:
                self._launcher.kill(trial_id, f"trial_timeout: the job took longer than {timeout:g} seconds")
            elif now - entry.alive > patience:
                self._retries.hung(trial_id)
                why = f"no sign of life for {patience:g} seconds after epoch {entry.trained}"
                self._launcher.kill(trial_id, f"heartbeat_timeout: {why}")
            elif self._stopping and now > self._deadline:
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
            self._warn("the tracking store is away: what is measured is kept on disk, new trials wait")
        elif before is not None and self._away is None:
            message = f"the tracking store was away for {before:.0f} seconds"
            self._tracker.tags(self.run_id, {"hpo.warning": message})
            self._warn(f"{message}; nothing is lost")

    def _look_at_gpus(self, now: float) -> None:
        busy, uploads = len(self._books.ledger.running), self._launcher.uploads
        if why := self._idle_gpus.look(now, busy=busy, slots=len(self._launcher.slots), uploads=uploads):
            self._tracker.tags(self.run_id, {"hpo.warning": why})
            self._warn(why)

    def _stop(self, reason: str) -> None:
        """Hand out no more jobs, and pause the running ones."""
        self._stopping = reason
        self._deadline = time.monotonic() + GRACE
        self._tell(f"stopping: {reason}")
        for trial_id in self._at_work():
            self._launcher.interrupt(trial_id)

    # --- the end

    def _conclude(self, folder: Path) -> None:
        """Settle the trials that will not go on, and log what the study found."""
        deadline = time.monotonic() + (GRACE if self._interrupted else UPLOAD_PATIENCE)
        while self._launcher.uploads and time.monotonic() < deadline:
            for event in self._arrivals.admit(self._launcher.drain(TICK)):
                self._take(event)
        if left := self._launcher.uploads:
            self._warn(f"{left} checkpoints are not in the artifact store yet")
        if not self._stopping:
            self._books.end_of_search()
            self._tracker.end_left_over()
            if self.optimizer.goal_reached:
                self._stopping = GOAL_REACHED
        self._notes.leave()
        if self.best is None:
            if self._interrupted:
                return
            ledger = self._books.ledger
            raise StudyError(why_no_best(self.config, ledger, self._feasibility, self._stopping))
        self._books.best_found(self.best)
        self._write(self._books.write_best, self.best)
        if isinstance(self._train, DescribedTraining) and not self._interrupted:
            self._log_model(self._train, self.best, folder)
        self._books.clear_checkpoints()

    def _log_model(self, train: DescribedTraining, best: BestTrial, folder: Path) -> None:
        of = whose_model(best.trial_id, best.resource)
        if self._resumption is not None and self._resumption.recording.tags.get(MODEL) == of:
            return  # logged before the study was resumed
        self._tell(f"logging the best model: {of}")
        problem = log_model(
            *(train, best, self._books, self._tracker, folder), register_as=self.config.register_as
        )
        if problem:
            self._tracker.tags(self.run_id, {"hpo.warning": f"no model logged: {problem}"})
            self._tell(f"no model logged: {problem}")
        else:
            self._tracker.tags(self.run_id, {MODEL: of})

    def _write(self, write: Callable[[T], None], what: T) -> None:
        """Write an artifact. A search does not fail for a store that is away: a resume writes it, too."""
        try:
            write(what)
        except StoreAwayError as error:
            self._tracker.tags(self.run_id, {"hpo.warning": str(error)})
            self._warn(f"{error}; `mlflow-hpo resume {self.run_id}` writes it when the store is back")

    def _finish(self) -> None:
        self._status = "KILLED" if self._interrupted else "FINISHED"
        self._write(self._tracker.table, self.summary())
        self._write_finish()
        self._tracker.flush()

    def _write_finish(self) -> None:
        self._status = "KILLED" if self._interrupted else "FINISHED"
        if self._stopping:
            self._tracker.tags(self.run_id, {"hpo.stop_reason": self._stopping})
        self._books.progress()
        self._tracker.finish(self._status)

    def _abort(self, error: BaseException) -> None:
        """Leave every run in a true state when the study breaks off; must not hide `error`."""
        self._status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._stopping = self._stopping or reason
        with contextlib.suppress(StudyError):  # the store may be what broke
            self._books.broken_off(reason)
            self._books.progress()
            self._notes.leave()
            self._tracker.tags(self.run_id, {"hpo.stop_reason": reason})
            self._tracker.finish(self._status)

    def _interrupt(self) -> None:
        self._interrupted = True

    def _warn(self, message: str) -> None:
        """Tell what the user should know, also where nobody listens."""
        if self._listener is None:
            logger.warning("%s", message)
        else:
            self._tell(message)

    def _tell(self, message: str) -> None:
        if self._replaying:  # it was told at its time
            return
        logger.info("%s", message)
        if self._listener is not None:
            self._listener.happened(message)


def tune(
    train: Trainable,
    space: SearchSpace | Mapping[str, Any] | None = None,
    /,
    *,
    resume: str | None = None,
    take_over: bool = False,
    **keys: Unpack[StudyKeys],
) -> BestTrial:
    """Search `space` for the configuration that `train` does best with, and return the best trial.

    Every trial is a nested run of one parent run in MLflow.

    Args:
        train: the training code, a function of one `Trial`.
        space: the search space; of a resumed study, None for the one that it has.
        resume: the parent run of a study that goes on; keys that are not given are as they were.
        take_over: resume it also where another driver may be at work on it.
        keys: the keys of search.yaml as keywords; ``metric`` may be a name with ``mode`` beside it.

    Raises:
        ConfigError: something in the arguments is wrong; nothing was launched.
        StudyError: the stores cannot be used, the metric is not reported, or no trial succeeded.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    return Study(train, space, resume=resume, take_over=take_over, **keys).run()


def trial_seed(seed: int, trial_id: int) -> int:
    """Return the seed of one trial, derived from the study's.

    >>> trial_seed(0, 1), trial_seed(0, 2), trial_seed(1, 1)
    (3964924996, 3141116543, 1189033389)
    """
    return int(np.random.SeedSequence([seed, trial_id]).generate_state(1)[0])
