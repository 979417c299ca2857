"""Bookkeeper: writes down what becomes of the trials, and clears away their checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from mlflow_hpo.config import StudyConfig
from mlflow_hpo.launchers.base import Slot
from mlflow_hpo.ledger import Ledger, TrialEntry
from mlflow_hpo.optimizer import BestTrial, Job, Optimizer, TrialState
from mlflow_hpo.recording import BROKEN_OFF, RecordedTrial, Recording
from mlflow_hpo.retention import Retention, StoredTrial
from mlflow_hpo.tracking.history import written_history
from mlflow_hpo.tracking.jobs import JOBS, read_jobs, written_jobs
from mlflow_hpo.tracking.recovery import ATTEMPT, CHECKPOINTS, SAMPLES
from mlflow_hpo.tracking.runs import TrialRun
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary, best_metric
from mlflow_hpo.tracking.tracker import TAG_LENGTH, Tracker
from mlflow_hpo.yaml_text import as_yaml

BUDGET = "hpo.budget"  # tag of the parent run: spent / allowed, in words
PROGRESS_INTERVAL = 60.0  # seconds: what a killed driver's study forgets at most of what it had spent
PROGRESS_PAUSE = 1.0  # seconds between two steps of it at least, but where there is a new best value
ANOTHER_SEARCH = "the study went on with another search"
STATUS = {TrialState.PAUSED: "SCHEDULED", TrialState.FINISHED: "FINISHED", TrialState.STOPPED: "KILLED"}
ENDED = {**STATUS, TrialState.FAILED: "FAILED"}


class Bookkeeper:
    """Keeps the ledger of a running study and its runs in MLflow in step.

    Used by the study's thread only. What it is told has happened in the optimizer already.

    Args:
        config: the study's settings.
        optimizer: where values and states are looked up; it is never changed here.
        tracker: the study's runs.
        slots: how many trials can run at once.
        trials_log: trials write what they report to their runs themselves.
    """

    def __init__(
        self,
        config: StudyConfig,
        optimizer: Optimizer,
        tracker: Tracker,
        *,
        slots: int,
        trials_log: bool = False,
    ) -> None:
        self.ledger = Ledger(config.budget, slots)
        self._config = config
        self._optimizer = optimizer
        self._tracker = tracker
        self._trials_log = trials_log
        self._retention = Retention.parse(config.keep_checkpoints)
        self.best_metric = best_metric(config.metric.name)
        self._progress_steps = 0
        self._progressed = time.monotonic()
        self._progress_due = False  # a job has ended since
        self._eliminated = 0  # how many of the optimizer's eliminations are written
        self._known: dict[int, RecordedTrial] = {}

    def recall(self, trials: Mapping[int, RecordedTrial]) -> None:
        """Let trials go on with the checkpoints and samples that their runs have."""
        self._known = dict(trials)

    def remember(self, trial: RecordedTrial, slot: Slot, broken: Sequence[str]) -> None:
        """Book a trial of an earlier search of this study; it is over.

        Args:
            trial: what is recorded of it.
            slot: any.
            broken: for each of its reports, in words which constraints it breaks.
        """
        record = self._optimizer.trials[trial.trial_id]
        bracket = int(trial.tags.get("hpo.bracket", "0"))
        job = Job(trial.trial_id, dict(record.config), 0, max(trial.reached, 1), bracket, trial.rung)
        entry = self.start(job, int(trial.tags.get("hpo.seed", "0")), slot)
        for report, words in zip(trial.reports, broken, strict=True):
            self.ledger.trained(trial.trial_id, report.epoch)
            self.reported(trial.trial_id, report.epoch, report.metrics, report.time, broken=words)
        self.ledger.ended(trial.trial_id, trial.seconds)
        stopped = trial.status == "KILLED" and trial.reason  # also if what it reached is a full training now
        entry.status = "KILLED" if stopped else ENDED[record.state]
        entry.reason = trial.reason or ("" if entry.status == "FINISHED" else ANOTHER_SEARCH)
        self._write_end(trial.trial_id)

    def start(self, job: Job, seed: int, slot: Slot, origin: str = "") -> TrialEntry:
        """Book a job that starts in `slot`; its run is RUNNING, or on its way.

        Args:
            job: what it trains.
            seed: of its trial.
            slot: where.
            origin: where its configuration comes from, if it is of an earlier study.

        Raises:
            StudyError: its run cannot be created.
        """
        entry = self.ledger.started(job, slot)
        if entry.run is not None:
            entry.fresh = False
            self._tracker.status(entry.run_id, "RUNNING")
            tags = {"hpo.rung": str(job.rung)}
            if entry.reason:  # it was given up, and goes on all the same
                entry.reason = tags["hpo.stop_reason"] = ""
            self._tracker.tags(entry.run_id, tags)
            return entry
        entry.origin = origin
        entry.coming = self._create(entry, seed)
        if entry.coming.done():
            entry.arrived(entry.coming.result())
        if (known := self._known.pop(job.trial_id, None)) is not None:
            entry.checkpoints, entry.samples = dict(known.checkpoints), known.samples
            entry.jobs = list(read_jobs(known.tags.get(JOBS, "")))
            entry.attempt = int(known.tags.get(ATTEMPT, "1"))
            entry.failure = known.tags.get("hpo.warning", "")
            entry.fresh = False
        return entry

    def renewed(self, trial_id: int, seed: int, *, goes_on: bool) -> Future[TrialRun]:
        """Give a trial that begins again a new run; the one before is put below it, as an attempt.

        Args:
            trial_id: whose run.
            seed: of the trial.
            goes_on: whether it goes on from a checkpoint, so that the new run begins with what the old one
                holds.

        Raises:
            StudyError: the run cannot be created.
        """
        entry, record = self.ledger.trials[trial_id], self._optimizer.trials[trial_id]
        if (before := entry.run) is None:
            raise RuntimeError(f"trial {trial_id} has no run")
        entry.run = None
        if goes_on:
            entry.trained = entry.reported
        copied_without = self.best_metric if goes_on else None
        entry.coming = self._tracker.after(self._create(entry, seed), before, copied_without=copied_without)

        def write(run: Future[TrialRun]) -> None:
            if run.exception() is not None:
                return
            run_id = run.result().run_id
            if record.best_value is not None:
                best, epoch = {self.best_metric: record.best_value}, record.best_resource or 0
                self._tracker.metrics(run_id, best, step=epoch, time=time.time())
            if entry.attempt > 1:
                self._tracker.tags(run_id, {ATTEMPT: str(entry.attempt), "hpo.warning": entry.failure})

        entry.coming.add_done_callback(write)
        return entry.coming

    def reported(
        self,
        trial_id: int,
        epoch: int,
        metrics: Mapping[str, float],
        time: float,
        *,
        broken: str,
    ) -> None:
        """Write the metrics of an epoch, and beside them the trial's best value if this is it.

        `broken` says in words which constraints it breaks, "" if none.
        """
        entry, record = self.ledger.trials[trial_id], self._optimizer.trials[trial_id]
        new = {} if self._trials_log else dict(metrics)
        if record.best_value is not None and record.best_resource == epoch:
            new[self.best_metric] = record.best_value
        if new:
            self._tracker.metrics(entry.run_id, new, step=epoch, time=time)
        if not broken:
            entry.epochs.append(epoch)
            entry.values.append(metrics[self._config.metric.name])
        if broken != entry.infeasible:
            entry.infeasible = broken
            self._tracker.tags(entry.run_id, {"hpo.infeasible": broken})

    def tried_again(self, trial_id: int, reason: str) -> str:
        """Write that a trial failed and will be tried again; return it in words."""
        entry = self.ledger.trials[trial_id]
        told = f"attempt {entry.attempt} failed after epoch {entry.trained}, trying again: {reason}"
        entry.attempt, entry.failure = entry.attempt + 1, told
        self._progress_due = True
        tags = {ATTEMPT: str(entry.attempt), "hpo.warning": told, "hpo.seconds": f"{entry.seconds:.3f}"}
        self._tracker.tags(entry.run_id, tags)
        return told

    def failed(self, trial_id: int, reason: str, details: str) -> None:
        """Write the end of a failed trial."""
        entry = self.ledger.trials[trial_id]
        entry.status, entry.reason = "FAILED", reason
        if details:
            self._tracker.tags(entry.run_id, {"hpo.traceback": details})
        self._write_end(trial_id)

    def interrupted(self, trial_id: int) -> None:
        """Write that a trial was paused in the middle of a rung; it goes on when the study does."""
        entry = self.ledger.trials[trial_id]
        entry.status, entry.reason = "SCHEDULED", f"interrupted after epoch {entry.reported}"
        self._write_end(trial_id)

    def completed(self, trial_id: int) -> None:
        """Write the end of a job that went as planned."""
        entry = self.ledger.trials[trial_id]
        entry.status = STATUS[self._optimizer.state(trial_id)]
        if entry.status == "KILLED" and not entry.reason:  # the last of its rung: given up as it ended
            entry.reason = _why_not_promoted(entry)
        self._write_end(trial_id)

    def eliminations(self) -> list[int]:
        """Write the end of the paused trials that the scheduler has given up since the last call; return
        them.
        """
        new = list(self._optimizer.eliminated[self._eliminated :])
        for trial_id in new:
            self._not_promoted(trial_id)
        self._eliminated += len(new)
        return new

    def end_of_search(self) -> None:
        """Write the end of every trial that is still paused: nothing will promote it any more."""
        for trial_id in self.ledger.trials:
            self._not_promoted(trial_id)

    def broken_off(self, reason: str) -> None:
        """Leave every run in a true state when the study breaks off."""
        for trial_id, entry in self.ledger.trials.items():
            if entry.status in ("RUNNING", "SCHEDULED"):
                entry.status = "FAILED" if entry.status == "RUNNING" else "KILLED"
                entry.reason = f"{BROKEN_OFF}{reason}"
                self._write_end(trial_id)

    def progress(self) -> None:
        """Write the study's own metrics, one step for each call, and what is spent of which budget."""
        ledger, best = self.ledger, self._optimizer.best
        spent = ledger.spent()
        values = {
            "trials_started": float(len(ledger.trials)),
            "trials_done": float(len(ledger.over)),
            **{f"{name}_spent": float(used) for name, (used, _) in spent.items() if name != "hours"},
            "seconds_spent": ledger.seconds,
            "slot_utilization": ledger.utilization,
        }
        if self._config.constraints:
            values["trials_infeasible"] = float(len(ledger.infeasible()))
        if best is not None:
            values[self.best_metric] = best.value
        self._tracker.progress(values, step=self._progress_steps)
        limits = [
            f"{name} {used:.4g} / {limit:g}" for name, (used, limit) in spent.items() if limit is not None
        ]
        limits.insert(0, f"trials {len(ledger.trials)} / {self._config.trials}")
        self._tracker.tags(self._tracker.run_id, {BUDGET: ", ".join(limits)})
        self._progress_steps += 1
        self._progressed = time.monotonic()
        self._progress_due = False

    def keep_progress(self) -> None:
        """Write the study's own metrics if a job has ended since the last time, or that was long ago."""
        pause = PROGRESS_PAUSE if self._progress_due else PROGRESS_INTERVAL
        if time.monotonic() - self._progressed > pause:
            self.progress()

    def go_on_from(self, recording: Recording) -> None:
        """Go on with what a study had spent, and written of its progress, when it was broken off."""
        self.ledger.restore(epochs=recording.epochs, seconds=recording.seconds, gpu_hours=recording.gpu_hours)
        self._progress_steps = max(self._progress_steps, recording.steps)

    def checkpoint_stored(self, trial_id: int, epoch: int, name: str) -> None:
        """Note a checkpoint that is safe, and remove the trial's older ones but the study's best."""
        entry = self.ledger.trials[trial_id]
        replaced, entry.checkpoints[epoch] = entry.checkpoints.get(epoch), name
        if self._retention.kind == "all":
            return
        if replaced is not None and replaced != name:
            self._tracker.delete_checkpoint(entry.location, replaced)
        self._keep(entry, {max(entry.checkpoints), self._best_epoch(trial_id)})
        self._tracker.tags(entry.run_id, {CHECKPOINTS: json.dumps(entry.checkpoints)})

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints that the user does not want to keep when the study ends."""
        if self._retention.kind == "all":
            return
        trials = (self._stored(trial_id) for trial_id in self.ledger.trials)
        kept = self._retention.keep(trials, self._config.metric.mode)
        if (best := self._optimizer.best) is not None:  # of equals it was there first
            kept.setdefault(best.trial_id, set()).add(best.resource)
        for trial_id, entry in self.ledger.trials.items():
            self._keep(entry, kept.get(trial_id, set()))

    def _stored(self, trial_id: int) -> StoredTrial:
        entry, record = self.ledger.trials[trial_id], self._optimizer.trials[trial_id]
        paused = entry.status == "SCHEDULED"
        best, epoch = record.best_value, record.best_resource or 0
        return StoredTrial(trial_id, paused, best, epoch, entry.checkpoints.keys())

    def best_found(self, best: BestTrial) -> None:
        """Write to the parent run which trial is the best, and wait until everything is written."""
        entry, tracker = self.ledger.trials[best.trial_id], self._tracker
        infeasible = len(self.ledger.infeasible())
        tracker.describe(
            f"Best: **{self._config.metric.name} {best.value:.6g}** by trial {best.trial_id} "
            f"at epoch {best.resource}, of {len(self.ledger.trials)} trials and {self.ledger.epochs} epochs."
            + (f" {infeasible} of the trials are infeasible." if infeasible else "")
        )
        tracker.tags(tracker.run_id, {"hpo.best_trial": str(best.trial_id), "hpo.best_run": entry.run_id})
        tracker.flush()

    def write_best(self, best: BestTrial) -> None:
        """Write the best configuration as an artifact."""
        found = {
            "trial": best.trial_id,
            "run_id": self.ledger.trials[best.trial_id].run_id,
            "epoch": best.resource,
            self._config.metric.name: best.value,
            "params": best.config,
        }
        self._tracker.log_text("best_config.yaml", as_yaml(found))

    def best_checkpoint(self, best: BestTrial, folder: Path) -> Path | None:
        """Return a local copy of the best epoch's checkpoint; None if there is none.

        Raises:
            CorruptCheckpointError: it is not what was stored.
        """
        entry = self.ledger.trials[best.trial_id]
        return self._tracker.fetch_checkpoint(entry.location, best.resource, folder)

    def summary(self, status: str, reason: str) -> StudySummary:
        """Return the present state of the study as plain data."""
        config, ledger, tracker, best = self._config, self.ledger, self._tracker, self._optimizer.best
        return StudySummary(
            run_id=tracker.run_id,
            name=tracker.run_name,
            experiment_id=tracker.experiment_id,
            tracking_uri=tracker.tracking_uri,
            status=status,
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
            best_trial=None if best is None else best.trial_id,
            eta=self._seconds_to_go() if status == "RUNNING" else None,
            reason=reason,
        )

    def history(self) -> str:
        """Return what later studies may learn from this one, as the content of an artifact."""
        return written_history(
            {
                "trial": trial_id,
                "run_id": entry.run_id,
                "params": self._config.space.format(entry.job.config),
                "curve": entry.curve,
                "reports": entry.reports,
                "failed": self._came_to_nothing(trial_id),
            }
            for trial_id, entry in sorted(self.ledger.trials.items())
            if entry.run_id
        )

    def _came_to_nothing(self, trial_id: int) -> bool:
        entry, value = self.ledger.trials[trial_id], self._optimizer.trials[trial_id].value
        return (
            entry.status == "FAILED"
            or entry.infeasible != ""
            or (value is not None and not math.isfinite(value))
        )

    def in_words(self, trial_id: int) -> str:
        """Return one line about the end of a trial's job."""
        entry, record = self.ledger.trials[trial_id], self._optimizer.trials[trial_id]
        word = {"SCHEDULED": "paused", "FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed"}
        value = "" if record.value is None else f", {self._config.metric.name} {record.value:.6g}"
        told = entry.infeasible and entry.status != "FAILED"
        broken = f" (infeasible: {entry.infeasible})" if told else ""
        reason = f": {entry.reason}" if entry.reason else ""
        return f"trial {trial_id}: {word[entry.status]} at epoch {entry.reported}{value}{broken}{reason}"

    def _seconds_to_go(self) -> float | None:
        expected, ledger = self._optimizer.expected_resource, self.ledger
        if expected is None or not ledger.epochs:
            return None
        return max(0.0, expected - ledger.epochs) * ledger.seconds / ledger.epochs

    def _not_promoted(self, trial_id: int) -> None:
        entry = self.ledger.trials[trial_id]
        if entry.status == "SCHEDULED":
            entry.status = "KILLED"
            entry.reason = _why_not_promoted(entry)
            self._write_end(trial_id)

    def _write_end(self, trial_id: int) -> None:
        entry, record = self.ledger.trials[trial_id], self._optimizer.trials[trial_id]
        tags = {
            "hpo.epochs": str(entry.reported),
            "hpo.seconds": f"{entry.seconds:.3f}",
            SAMPLES: str(entry.samples),
        }
        if entry.jobs:
            tags[JOBS] = written_jobs(entry.jobs, TAG_LENGTH)
        if record.best_value is not None:
            tags["hpo.best_epoch"] = str(record.best_resource)
        if entry.reason:
            tags["hpo.stop_reason"] = entry.reason
        status, self._progress_due = entry.status, True
        if status not in ("RUNNING", "SCHEDULED"):
            self.ledger.over.add(trial_id)

        def write(run: Future[TrialRun]) -> None:
            if run.exception() is None:
                self._tracker.tags(run.result().run_id, tags)
                self._tracker.status(run.result().run_id, status)

        if entry.run is not None:
            write(entry.run.at_once())
        elif entry.coming is not None:  # the store is away: it may still come
            entry.coming.add_done_callback(write)

    def _create(self, entry: TrialEntry, seed: int) -> Future[TrialRun]:
        job = entry.job
        return self._tracker.start_trial(
            *(job.trial_id, self._config.space.format(job.config)),
            bracket=job.bracket,
            rung=job.rung,
            seed=seed,
            origin=entry.origin,
        )

    def _best_epoch(self, trial_id: int) -> int:
        """Return the epoch of the study's best value if this trial reached it, else 0."""
        best = self._optimizer.best
        return best.resource if best is not None and best.trial_id == trial_id else 0

    def _keep(self, entry: TrialEntry, epochs: set[int]) -> None:
        for epoch in [epoch for epoch in entry.checkpoints if epoch not in epochs]:
            self._tracker.delete_checkpoint(entry.location, entry.checkpoints.pop(epoch))

    def _trial_summary(self, trial_id: int) -> TrialSummary:
        entry, record = self.ledger.trials[trial_id], self._optimizer.trials[trial_id]
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
            infeasible=entry.infeasible,
        )


def _why_not_promoted(entry: TrialEntry) -> str:
    return f"not promoted from rung {entry.job.rung} (epoch {entry.reported})"


def _component_name(spec: object) -> str:
    return str(spec.get("name")) if isinstance(spec, dict) else str(spec)
