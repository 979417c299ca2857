"""Study: joins optimizer, launcher and tracker into one search; `tune` is its one-call face."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from mlflow_hpo.ahead import import_ahead
from mlflow_hpo.auto import choose, is_auto, named
from mlflow_hpo.background import Background
from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.conclusion import log_model, why_no_best
from mlflow_hpo.config import StudyConfig, StudyKeys
from mlflow_hpo.errors import ConfigError, StoreAwayError, StudyError
from mlflow_hpo.launchers import LAUNCHERS
from mlflow_hpo.launchers.base import Trainable
from mlflow_hpo.launchers.choice import choose_launcher
from mlflow_hpo.launchers.mps import mps_in_words
from mlflow_hpo.launchers.project_contract import Project
from mlflow_hpo.metalearning.warm_start import WarmStart
from mlflow_hpo.notes import Notes
from mlflow_hpo.optimizer import BestTrial
from mlflow_hpo.preparation import (
    begun_warm_start,
    describe,
    make_optimizer,
    mined_warm_start,
    parent_run,
)
from mlflow_hpo.recording import Recording
from mlflow_hpo.reporting import Reporting
from mlflow_hpo.resumption import Resumption, check_task, check_trials, overruled, resumed_keys
from mlflow_hpo.scratch import scratch_folder
from mlflow_hpo.search_loop import GOAL_REACHED, SearchLoop
from mlflow_hpo.signals import interruptible
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.lease import LeaseLostError
from mlflow_hpo.tracking.recovery import read_recording
from mlflow_hpo.tracking.summary import MODEL, StudySummary, whose_model
from mlflow_hpo.tracking.tracker import Tracker
from mlflow_hpo.trial import Described, DescribedTraining
from mlflow_hpo.voice import Listener, Voice

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

LOOK = 0.5  # seconds between two looks at whether a study that was started has failed

T = TypeVar("T")


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
        notes: list[str] = []
        if recording is not None:
            notes = overruled(recording, given)
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
        if recording is not None:
            check_trials(recording, config)
        self._resumption = None if recording is None else Resumption(recording, config)
        self.optimizer = make_optimizer(config)
        self._launcher = LAUNCHERS.create(config.place, config.workers)
        self._launcher.jobs_per_worker = config.trials_per_worker
        self._launcher.check(train)
        self._train = train
        self._facts = describe(train, config)
        if recording is not None and isinstance(train, Described):
            check_task(recording, self._facts["data"])
        self._warm_start: WarmStart | None = None
        self._origins: dict[Any, str] = {}  # task and run of what was good before, by configuration
        if self._resumption is None:
            self._look(config)
        elif self._resumption.recording.looked:
            self._go_on_with(self._resumption, notes)
        elif (found := self._look(config, self._resumption.recording.run_id)) is not None:
            self._resumption.also(found.artifacts(), [f"warm start: {found}"])
        self._voice = Voice(listener, muted=recording is not None)
        self._begun = False
        self._open = threading.Event()  # its parent run is there
        self._background: Background | None = None
        self._status = "RUNNING"
        self._interrupted = threading.Event()  # the user wants the end
        self._searched = False  # nothing is left but to write down how it ended

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
        return self._books.summary(self._status, self._loop.stopping)

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
        while not (self._open.wait(LOOK) or self._background.over):
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
            newer = self._tracker.recording
            if newer is not None and newer is not recording:
                self._resumption = self._resumption.renewed(newer, self.config)
        self._books = Bookkeeper(
            *(self.config, self.optimizer, self._tracker),
            slots=len(self._launcher.slots),
            trials_log=self._launcher.trials_log,
        )
        self._notes = Notes(self._books, self._tracker, self._voice.warn)
        self._reporting = Reporting(self._books, self._tracker, self._voice.warn, self.config.trials)
        self._loop = SearchLoop(
            *(self.config, self.optimizer, self._launcher, self._books, self._tracker, self._voice),
            *(self._interrupted, self._meanwhile),
            resumption=self._resumption,
            origins=self._origins,
        )
        self._open.set()
        mine = True  # whether the runs tell how this ended
        try:
            self._launcher = self._loop.begin()
            self._voice.started(self.summary)
            with (
                scratch_folder() as folder,
                contextlib.closing(self._launcher),
                interruptible(self._interrupt),
            ):
                services = self._tracker.services(self.config.metrics)
                self._launcher.start(self._train, services, folder)
                if isinstance(self._train, DescribedTraining):
                    import_ahead(self._train.import_ahead)
                self._tell_choices()
                self._loop.run()
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
            elif self._loop.replaying:  # nothing new has happened
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
            self._voice.ended()
        if self._interrupted.is_set() or self.best is None:
            raise KeyboardInterrupt
        return self.best

    def _look(self, config: StudyConfig, own: str = "") -> WarmStart | None:
        """Look for a history where the user wants that, and record which studies it comes from."""
        found = mined_warm_start(config, self._facts, own)
        if found is not None:
            self.config = self.config.model_copy(update={"warm_start": found.studies})
            self._begin_with(found)
        return found

    def _go_on_with(self, resumption: Resumption, notes: list[str]) -> None:
        """Take the history that the study began with; `notes` are to be told besides."""
        known = begun_warm_start(self.config, self._facts, resumption.recording.run_id)
        resumption.also(known.artifacts, [*notes, *known.notes])
        self._begin_with(known.warm_start)

    def _begin_with(self, warm_start: WarmStart) -> None:
        """Let the optimizer know the history."""
        self._warm_start = warm_start
        self._origins = warm_start.origins()
        self.optimizer = make_optimizer(self.config, warm_start)

    def _tell_choices(self) -> None:
        """Tell what the user has left to us to choose."""
        if self._choice is not None:
            self._voice.tell(self._choice.told)
        if self._place:
            self._voice.tell(self._place)
        if self._warm_start is not None:
            self._voice.tell(f"warm start: {self._warm_start}")
        if about_mps := mps_in_words(self._launcher.slots):
            self._voice.tell(about_mps)
        if (size := self.optimizer.searcher.size) is not None:
            self._voice.tell(f"{self.summary().searcher} of {size} configurations")

    def _meanwhile(self) -> None:
        """Write what is to be written now and then."""
        self._notes.take()
        self._reporting.take()
        self._books.keep_progress()

    def _interrupt(self) -> None:
        self._interrupted.set()

    # --- the end

    def _conclude(self, folder: Path) -> None:
        """Settle the trials that will not go on, and log what the study found."""
        if left := self._loop.settle_uploads():
            self._voice.warn(f"{left} checkpoints are not in the artifact store yet")
        if not self._loop.stopping:
            self._books.end_of_search()
            self._tracker.end_left_over()
            if self.optimizer.goal_reached:
                self._loop.stopping = GOAL_REACHED
        self._notes.leave()
        if self.best is None:
            if self._interrupted.is_set():
                return
            raise StudyError(
                why_no_best(self.config, self._books.ledger, self._loop.feasibility, self._loop.stopping)
            )
        self._books.best_found(self.best)
        self._write(self._books.write_best, self.best)
        if isinstance(self._train, DescribedTraining) and not self._interrupted.is_set():
            self._log_model(self._train, self.best, folder)
        self._tracker.check_lease()  # what is no longer needed here may be needed by another driver
        self._books.clear_checkpoints()

    def _log_model(self, train: DescribedTraining, best: BestTrial, folder: Path) -> None:
        of = whose_model(best.trial_id, best.resource)
        if self._resumption is not None and self._resumption.recording.tags.get(MODEL) == of:
            return  # logged before the study was resumed
        self._voice.tell(f"logging the best model: {of}")
        problem = log_model(
            *(train, best, self._books, self._tracker, folder), register_as=self.config.register_as
        )
        if problem:
            self._tracker.tags(self.run_id, {"hpo.warning": f"no model logged: {problem}"})
            self._voice.tell(f"no model logged: {problem}")
        else:
            self._tracker.tags(self.run_id, {MODEL: of})

    def _write(self, write: Callable[[T], None], what: T) -> None:
        """Write an artifact. A search does not fail for a store that is away: a resume writes it, too."""
        try:
            write(what)
        except StoreAwayError as error:
            self._tracker.tags(self.run_id, {"hpo.warning": str(error)})
            self._voice.warn(f"{error}; `mlflow-hpo resume {self.run_id}` writes it when the store is back")

    def _finish(self) -> None:
        self._status = "KILLED" if self._interrupted.is_set() else "FINISHED"
        self._write(self._tracker.table, self.summary())
        self._tracker.flush()  # who goes on with the study once it is free finds all of it
        self._tracker.check_lease()
        self._write_finish()
        self._tracker.flush()

    def _write_finish(self) -> None:
        self._status = "KILLED" if self._interrupted.is_set() else "FINISHED"
        if self._loop.stopping:
            self._tracker.tags(self.run_id, {"hpo.stop_reason": self._loop.stopping})
        self._books.progress()
        self._tracker.finish(self._status)

    def _abort(self, error: BaseException) -> None:
        """Leave every run in a true state when the study breaks off; must not hide `error`."""
        self._status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._loop.stopping = self._loop.stopping or reason
        with contextlib.suppress(StudyError):  # the store may be what broke
            self._books.broken_off(reason)
            self._books.progress()
            self._notes.leave()
            self._tracker.tags(self.run_id, {"hpo.stop_reason": reason})
            self._tracker.finish(self._status)


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
