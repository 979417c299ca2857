"""Study: the loop that joins optimizer, launcher and tracker; `tune` is its one-call face."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Unpack

import mlflow
import numpy as np

from mlflow_hpo.config import StudyConfig, StudyKeys
from mlflow_hpo.errors import ConfigError, CorruptCheckpointError, StudyError
from mlflow_hpo.launchers import LAUNCHERS
from mlflow_hpo.launchers.base import (
    CheckpointStored,
    Ended,
    Event,
    Outcome,
    Reported,
    Sampled,
    Trainable,
    TrialJob,
    Warned,
)
from mlflow_hpo.ledger import Ledger, TrialEntry
from mlflow_hpo.optimizer import BestTrial, Decision, Job, Optimizer, TrialState
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary
from mlflow_hpo.tracking.tracker import Tracker, as_param, as_yaml, packages
from mlflow_hpo.trial import DescribedTraining

TICK = 0.5  # seconds: how often limits and the view are looked at while nothing happens
GRACE = 10.0  # seconds that an interrupted trial gets to store its checkpoint

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Watches a study; called in its thread, so be quick."""

    def started(self, summary: Callable[[], StudySummary]) -> None:
        """The parent run is there and the workers are starting; `summary` tells the state at any time."""

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
        train: the training code, a function of one `Trial`.
        space: the search space, unless it is among `keys`.
        listener: watches the study.
        keys: the keys of search.yaml.

    Raises:
        ConfigError: something in `keys`, or in the data that the training wants, is wrong.
    """

    def __init__(
        self,
        train: Trainable,
        space: SearchSpace | Mapping[str, Any] | None = None,
        /,
        *,
        listener: Listener | None = None,
        **keys: Unpack[StudyKeys],
    ) -> None:
        if not callable(train):
            raise ConfigError("train", f"must be a function of one Trial, got {type(train).__name__}")
        given: dict[str, Any] = dict(keys)
        if space is not None:
            given["space"] = space
        self.config = config = StudyConfig.parse(given)
        self.optimizer = Optimizer(
            config.space,
            mode=config.metric.mode,
            searcher=config.searcher,
            scheduler=config.scheduler,
            min_resource=config.min_resource,
            max_resource=config.max_resource,
            trials=config.trials,
            seed=config.seed,
            points=list(config.points),
        )
        self._launcher = LAUNCHERS.get(config.launcher)(config.workers)
        self._train = train
        self._facts = self._describe()
        self._listener = listener
        self._ledger = Ledger(config.budget)
        self._tracker: Tracker | None = None
        self._stopping = ""  # why no more jobs are handed out
        self._interrupted = False
        self._status = "RUNNING"
        self._best: BestTrial | None = None
        self._eliminated = 0  # how many of the optimizer's eliminations are written

    @property
    def best(self) -> BestTrial | None:
        """The best value that any trial reported so far."""
        return self.optimizer.best

    @property
    def run_id(self) -> str:
        """Id of the parent run. Raises StudyError before the study runs."""
        return self._runs.run_id

    def run(self) -> BestTrial:
        """Run the study to its end and return the best trial.

        Raises:
            StudyError: the stores cannot be used, the metric is not reported, or no trial succeeded.
            KeyboardInterrupt: SIGINT or SIGTERM came; running trials stored a checkpoint and are paused.
        """
        self._tracker = self._open_tracker()
        try:
            with (
                tempfile.TemporaryDirectory(prefix="mlflow-hpo-") as folder,
                contextlib.closing(self._launcher),
                self._signals(),
            ):
                self._launcher.start(self._train, self._tracker.services, Path(folder))
                if self._listener is not None:
                    self._listener.started(self.summary)
                self._loop()
                best = self._conclude(Path(folder))
            self._finish("KILLED" if self._interrupted else "FINISHED")
        except BaseException as error:
            self._abort(error)
            raise
        finally:
            self._tracker.close()
            if self._listener is not None:
                self._listener.ended()
        if self._interrupted:
            raise KeyboardInterrupt
        return best

    def summary(self) -> StudySummary:
        """Return the present state of the study as plain data."""
        config, ledger, runs = self.config, self._ledger, self._runs
        return StudySummary(
            run_id=runs.run_id,
            name=runs.run_name,
            experiment_id=runs.experiment_id,
            tracking_uri=runs.tracking_uri,
            status=self._status,
            metric=config.metric.name,
            mode=config.metric.mode,
            searcher=_component_name(config.searcher),
            scheduler=_component_name(config.scheduler),
            trials_planned=config.trials,
            max_resource=config.max_resource,
            seconds=ledger.seconds,
            epochs=ledger.epochs,
            gpu_hours=ledger.gpu_hours,
            trials=tuple(self._trial_summary(trial_id) for trial_id in sorted(ledger.trials)),
            budget=config.budget.model_dump(exclude_none=True),
            best_trial=None if self.best is None else self.best.trial_id,
            reason=self._stopping,
        )

    # --- the loop

    def _loop(self) -> None:
        while True:
            if not self._stopping:
                self._hand_out()
            if not self._ledger.running:
                return
            for event in self._launcher.wait(TICK):
                self._take(event)
            self._look_at_limits()
            if self._listener is not None:
                self._listener.ticked()

    def _hand_out(self) -> None:
        while self._launcher.free and (job := self.optimizer.ask()) is not None:
            self._start(job)

    def _start(self, job: Job) -> None:
        entry = self._ledger.trials.get(job.trial_id)
        seed = trial_seed(self.config.seed, job.trial_id)
        if entry is None:
            run_id, location = self._runs.start_trial(
                job.trial_id,
                self.config.space.format(job.config),
                bracket=job.bracket,
                rung=job.rung,
                seed=seed,
            )
            samples = 0
        else:
            run_id, location, samples = entry.run_id, entry.location, entry.samples
            self._runs.status(run_id, "RUNNING")
            self._runs.tags(run_id, {"hpo.rung": str(job.rung), "hpo.stop_reason": ""})
        slot = self._launcher.submit(
            TrialJob(job.trial_id, job.config, job.start, job.stop, seed, location, samples)
        )
        self._ledger.started(job, run_id, location, slot)

    def _take(self, event: Event) -> None:
        match event:
            case Reported():
                self._take_report(event)
            case Sampled(trial_id, number, metrics, time):
                entry = self._ledger.trials[trial_id]
                entry.samples = number + 1
                self._runs.metrics(entry.run_id, metrics, step=number, time=time)
            case CheckpointStored(trial_id, epoch, name):
                self._take_checkpoint(self._ledger.trials[trial_id], epoch, name)
            case Warned(trial_id, message):
                self._runs.tags(self._ledger.trials[trial_id].run_id, {"hpo.warning": message})
                self._tell(f"trial {trial_id}: {message}")
            case Ended():
                self._take_end(event)

    def _take_report(self, event: Reported) -> None:
        metric = self.config.metric.name
        entry = self._ledger.trials[event.trial_id]
        if metric not in event.metrics:
            raise StudyError(
                f"metric: {metric!r} is not among what the training reports at epoch {event.epoch}: "
                + ", ".join(sorted(event.metrics))
            )
        if event.epoch > entry.job.stop:
            self._launcher.kill(event.trial_id, f"reported epoch {event.epoch}, behind epoch {entry.job.stop}")
            return
        go_on, before = not self._stopping, self.optimizer.best
        if self._ledger.trained(event.trial_id, event.epoch):
            decision = self.optimizer.report(event.trial_id, event.epoch, event.metrics[metric])
            self._runs.metrics(entry.run_id, event.metrics, step=event.epoch, time=event.time)
            if decision is Decision.STOP:
                entry.reason = f"stopped by the scheduler at epoch {event.epoch}"
                go_on = False
        improved = self.optimizer.best != before
        self._launcher.reply(event.trial_id, go_on=go_on, best=improved)
        best = self.optimizer.best
        if improved and best is not None:
            self._tell(f"trial {best.trial_id}: best {metric} so far, {best.value:.6g} at epoch {best.resource}")

    def _take_checkpoint(self, entry: TrialEntry, epoch: int, name: str) -> None:
        replaced = entry.checkpoints.get(epoch)
        entry.checkpoints[epoch] = name
        if self.config.keep_checkpoints == "all":
            return
        best = self.optimizer.best
        keep = {max(entry.checkpoints)}
        if best is not None and best.trial_id == entry.job.trial_id:
            keep.add(best.resource)
        if replaced not in (None, name):
            self._runs.delete_checkpoint(entry.location, str(replaced))
        self._drop_checkpoints(entry, keep)

    def _take_end(self, event: Ended) -> None:
        trial_id, optimizer = event.trial_id, self.optimizer
        entry = self._ledger.ended(trial_id, event.seconds)
        reason = event.reason
        if event.outcome is Outcome.COMPLETED and entry.reported < entry.job.stop:
            reason = f"the training returned after reporting epoch {entry.reported} of {entry.job.stop}"
        stopped_by_scheduler = event.outcome is Outcome.STOPPED and bool(entry.reason)
        if reason or event.outcome is Outcome.FAILED:
            optimizer.fail(trial_id, reason)
            entry.status, entry.reason = "FAILED", reason
            self._runs.tags(entry.run_id, {"hpo.traceback": event.details} if event.details else {})
        elif event.outcome is Outcome.STOPPED and not stopped_by_scheduler and entry.reported < entry.job.stop:
            # interrupted in the middle of a rung: it goes on when the study is resumed
            entry.status, entry.reason = "SCHEDULED", f"interrupted after epoch {entry.reported}"
        else:
            optimizer.complete(trial_id)
            entry.status = {
                TrialState.PAUSED: "SCHEDULED",
                TrialState.FINISHED: "FINISHED",
                TrialState.STOPPED: "KILLED",
            }[optimizer.state(trial_id)]
        self._write_end(trial_id)
        self._write_eliminations()
        self._write_progress()
        self._tell(self._end_message(trial_id))
        self._look_at_failures()

    # --- limits

    def _look_at_limits(self) -> None:
        now = time.monotonic()
        if self._interrupted and not self._stopping:
            self._stop("interrupted")
        elif not self._stopping and (limit := self._ledger.exhausted()):
            self._stop(limit)
        timeout = self.config.trial_timeout
        for trial_id in list(self._ledger.running):
            entry = self._ledger.trials[trial_id]
            if timeout is not None and now - entry.begin > timeout:
                self._launcher.kill(trial_id, f"trial_timeout: the job took longer than {timeout:g} seconds")
            elif self._stopping and now > self._deadline:
                self._launcher.kill(trial_id, f"{self._stopping}, and it did not stop in {GRACE:g} seconds")

    def _stop(self, reason: str) -> None:
        """Hand out no more jobs, and pause the running ones."""
        self._stopping = reason
        self._deadline = time.monotonic() + GRACE
        self._tell(f"stopping: {reason}")
        for trial_id in self._ledger.running:
            self._launcher.interrupt(trial_id)

    def _look_at_failures(self) -> None:
        entries = self._ledger.trials.values()
        failed = [entry for entry in entries if entry.status == "FAILED"]
        if len(failed) >= self.config.max_failures and self.optimizer.best is None:
            raise StudyError(
                f"max_failures: the first {len(failed)} trials failed, the last one with: {failed[-1].reason}"
            )

    # --- beginning and end

    def _describe(self) -> dict[str, str]:
        """Check the study against training code that describes itself; return what it says of the data."""
        train, config = self._train, self.config
        if not isinstance(train, DescribedTraining):
            name = getattr(train, "__name__", type(train).__name__)
            return {"data": f"{getattr(train, '__module__', '')}.{name}".removeprefix("__main__.")}
        train.check_params(config.space.names)
        train.prepare()
        if config.metric.name not in train.metrics:
            raise ConfigError(
                "metric.name",
                f"must be one that the training logs ({', '.join(sorted(train.metrics))}), "
                f"got {config.metric.name!r}",
            )
        return dict(train.describe())

    def _open_tracker(self) -> Tracker:
        config, facts = self.config, self._facts
        space = config.space.to_dict()
        settings = {
            "searcher": config.searcher,
            "scheduler": config.scheduler,
            "min_resource": config.min_resource,
            "max_resource": config.max_resource,
            "trials": config.trials,
            "workers": config.workers,
            "seed": config.seed,
            **{f"budget.{name}": limit for name, limit in config.budget.model_dump(exclude_none=True).items()},
        }
        return Tracker(
            experiment=config.experiment,
            name=config.name,
            tags={
                "hpo.task": facts["data"],
                "hpo.metric": config.metric.name,
                "hpo.mode": config.metric.mode,
                **{f"hpo.{name}": text for name, text in facts.items() if name != "data"},
            },
            params={f"hpo.{name}": as_param(value) for name, value in settings.items()},
            artifacts={
                "search.yaml": as_yaml(config.to_dict()),
                "space.json": json.dumps(space, indent=2),
                "environment/packages.txt": packages(),
            },
        )

    def _conclude(self, folder: Path) -> BestTrial:
        """Settle the trials that will not go on, log what the study found, and return the best trial."""
        best = self.optimizer.best
        resumable = bool(self._stopping)
        for trial_id, entry in self._ledger.trials.items():
            if entry.status == "SCHEDULED" and not resumable:
                self._eliminate(trial_id)
        if best is None:
            if self._interrupted:
                raise KeyboardInterrupt
            failed = [entry.reason for entry in self._ledger.trials.values() if entry.status == "FAILED"]
            raise StudyError(
                f"no trial reported a finite {self.config.metric.name}"
                + (f"; the last failure: {failed[-1]}" if failed else self._stopping and f": {self._stopping}")
            )
        self._log_best(best, folder)
        if self.config.keep_checkpoints == "best":
            for trial_id, entry in self._ledger.trials.items():
                if trial_id == best.trial_id:
                    self._drop_checkpoints(entry, {best.resource, max(entry.checkpoints, default=0)})
                elif not (resumable and entry.status == "SCHEDULED"):
                    self._drop_checkpoints(entry, set())
        return best

    def _log_best(self, best: BestTrial, folder: Path) -> None:
        runs, entry = self._runs, self._ledger.trials[best.trial_id]
        self._tell(f"logging the best model: trial {best.trial_id} at epoch {best.resource}")
        found = {
            "trial": best.trial_id,
            "run_id": entry.run_id,
            "epoch": best.resource,
            self.config.metric.name: best.value,
            "params": best.config,
        }
        runs.log_text("best_config.yaml", as_yaml(found))
        runs.tags(runs.run_id, {"hpo.best_trial": str(best.trial_id), "hpo.best_run": entry.run_id})
        runs.flush()
        if not isinstance(self._train, DescribedTraining) or self._interrupted:
            return
        problem = "it is not in the store"
        try:
            path = runs.fetch_checkpoint(entry.location, best.resource, folder)
        except CorruptCheckpointError as error:
            path, problem = None, str(error)
        if path is None:
            self._tell(f"no model logged: no intact checkpoint of the best epoch: {problem}")
            runs.tags(runs.run_id, {"hpo.warning": f"no model logged: {problem}"})
            return
        with mlflow.start_run(run_id=runs.run_id, nested=mlflow.active_run() is not None):
            self._train.log_model(path, best.config, registered_model_name=self.config.register_as)

    def _finish(self, status: str) -> None:
        self._status = status
        if self._stopping:
            self._runs.tags(self.run_id, {"hpo.stop_reason": self._stopping})
        self._write_progress()
        self._runs.table(self.summary())
        self._runs.finish(status)
        self._runs.flush()

    def _abort(self, error: BaseException) -> None:
        """Leave every run in a true state when the study breaks off; must not hide `error`."""
        self._status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._stopping = self._stopping or reason
        with contextlib.suppress(StudyError):  # the store may be what broke
            for trial_id, entry in self._ledger.trials.items():
                if entry.status in ("RUNNING", "SCHEDULED"):
                    entry.status = "FAILED" if entry.status == "RUNNING" else "KILLED"
                    entry.reason = f"the study ended: {reason}"
                    self._write_end(trial_id)
            self._runs.tags(self.run_id, {"hpo.stop_reason": reason})
            self._runs.finish(self._status)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into an orderly stop; a second SIGINT quits at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, _: object) -> None:
            if self._interrupted and number == signal.SIGINT:
                os._exit(130)  # the workers see the end of their pipes and leave, too
            self._interrupted = True

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # --- writing

    @property
    def _runs(self) -> Tracker:
        if self._tracker is None:
            raise StudyError("the study has not been started: call run()")
        return self._tracker

    def _write_end(self, trial_id: int) -> None:
        entry, record = self._ledger.trials[trial_id], self.optimizer.trials[trial_id]
        tags = {"hpo.epochs": str(entry.reported), "hpo.seconds": f"{entry.seconds:.3f}"}
        if record.best_value is not None:
            tags |= {"hpo.best_value": repr(record.best_value), "hpo.best_epoch": str(record.best_resource)}
        if entry.reason:
            tags["hpo.stop_reason"] = entry.reason
        self._runs.tags(entry.run_id, tags)
        self._runs.status(entry.run_id, entry.status)

    def _write_eliminations(self) -> None:
        eliminated = self.optimizer.eliminated
        while self._eliminated < len(eliminated):
            self._eliminate(eliminated[self._eliminated])
            self._eliminated += 1

    def _eliminate(self, trial_id: int) -> None:
        entry = self._ledger.trials[trial_id]
        if entry.status != "SCHEDULED":
            return
        entry.status = "KILLED"
        entry.reason = f"not promoted from rung {entry.job.rung} (epoch {entry.reported})"
        self._write_end(trial_id)

    def _write_progress(self) -> None:
        ledger, best = self._ledger, self.optimizer.best
        values = {
            "trials_started": float(len(ledger.trials)),
            "trials_done": float(sum(e.status not in ("RUNNING", "SCHEDULED") for e in ledger.trials.values())),
            "epochs_spent": float(ledger.epochs),
            "gpu_hours_spent": ledger.gpu_hours,
        }
        if best is not None:
            values[f"best_{self.config.metric.name}"] = best.value
        self._runs.progress(values, step=ledger.jobs_ended)

    def _drop_checkpoints(self, entry: TrialEntry, keep: set[int]) -> None:
        for epoch in [epoch for epoch in entry.checkpoints if epoch not in keep]:
            self._runs.delete_checkpoint(entry.location, entry.checkpoints.pop(epoch))

    def _tell(self, message: str) -> None:
        logger.info("%s", message)
        if self._listener is not None:
            self._listener.happened(message)

    def _end_message(self, trial_id: int) -> str:
        entry, record = self._ledger.trials[trial_id], self.optimizer.trials[trial_id]
        value = "" if record.value is None else f" {self.config.metric.name} {record.value:.6g}"
        word = {"SCHEDULED": "paused", "FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}
        reason = f": {entry.reason}" if entry.reason else ""
        return f"trial {trial_id}: {word[entry.status]} at epoch {entry.reported},{value}{reason}"

    def _trial_summary(self, trial_id: int) -> TrialSummary:
        entry, record = self._ledger.trials[trial_id], self.optimizer.trials[trial_id]
        return TrialSummary(
            trial_id=trial_id,
            run_id=entry.run_id,
            status=entry.status,
            params=record.config,
            bracket=entry.job.bracket,
            rung=entry.job.rung,
            epochs=entry.reported,
            value=record.value,
            best=record.best_value,
            best_epoch=record.best_resource or 0,
            seconds=entry.seconds,
            reason=entry.reason,
        )


def tune(
    train: Trainable, space: SearchSpace | Mapping[str, Any], /, **keys: Unpack[StudyKeys]
) -> BestTrial:
    """Search `space` for the configuration that `train` does best with, and return the best trial.

    Every trial is a nested run of one parent run in MLflow.

    Args:
        train: the training code, a function of one `Trial`.
        space: the search space.
        keys: the keys of search.yaml as keywords; ``metric`` may be a name with ``mode`` beside it.

    Raises:
        ConfigError: something in the arguments is wrong; nothing was launched.
        StudyError: the stores cannot be used, the metric is not reported, or no trial succeeded.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    return Study(train, space, **keys).run()


def trial_seed(seed: int, trial_id: int) -> int:
    """Return the seed of one trial, derived from the study's.

    >>> trial_seed(0, 1), trial_seed(0, 2), trial_seed(1, 1)
    (4046806910, 2614315567, 1791095845)
    """
    return int(np.random.SeedSequence([seed, trial_id]).generate_state(1)[0])


def _component_name(spec: str | Mapping[str, Any]) -> str:
    return spec if isinstance(spec, str) else str(spec.get("name"))
