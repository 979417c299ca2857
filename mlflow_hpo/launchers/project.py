"""The project launcher: each trial is a process of a project's entry point that logs to its own run."""

from __future__ import annotations

import queue
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.launchers.base import (
    Ended,
    Event,
    Launcher,
    Outcome,
    Renewed,
    Services,
    Slot,
    TrialJob,
)
from mlflow_hpo.launchers.processes import TICK, Guard
from mlflow_hpo.launchers.project_contract import Project
from mlflow_hpo.launchers.script import Habits, Script
from mlflow_hpo.launchers.slots import slots_here

LAST_OUTPUTS = 10.0  # seconds that an output on its way to the store gets when the launcher is closed


class ProjectLauncher(Launcher):
    """Runs each job as a process of a project's entry point, in a process group of its own.

    The script logs to the trial's run by itself, so a job begins when its run is there, and what it logs is
    followed there. A trial that goes on begins again, from the checkpoint that the script keeps or from
    scratch, and gets a new run for it: in the old one it would log what it logged before a second time.

    Args:
        workers: number of scripts that run at a time.
        gpus_per_trial: as `make_slots` has it.

    Raises:
        ConfigError: what `make_slots` raises.
    """

    trials_log = True

    def __init__(self, workers: int, *, gpus_per_trial: float | None = None) -> None:
        self.slots = slots_here(workers, gpus_per_trial)
        self._guard: Guard | None = None
        self._waiting: dict[int, TrialJob] = {}  # slot number -> job whose run is on its way
        self._scripts: dict[int, Script] = {}  # slot number -> script
        self._storing: list[Script] = []  # whose jobs are over
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._jobs = 0
        self._habits = Habits()

    def check(self, trainable: Any) -> None:
        """Raise ConfigError for anything but a project."""
        if not isinstance(trainable, Project):
            raise ConfigError(
                "launcher",
                "'project' runs MLflow projects: mlflow run URI --backend hpo --backend-config FILE, "
                "and goes on with a study by the key resume in that file",
            )

    def start(self, trainable: Any, services: Services, folder: Path) -> None:
        """Take what the jobs need; nothing runs yet."""
        self.check(trainable)
        self._project: Project = trainable
        self._services = services
        self._folder = folder
        self._guard = Guard()

    @property
    def free_slot(self) -> Slot | None:
        """The first slot without a job."""
        taken = self._waiting.keys() | self._scripts.keys()
        return next((slot for slot in self.slots if slot.number not in taken), None)

    def submit(self, slot: Slot, job: TrialJob) -> None:
        """Begin a job, once its run is there."""
        if slot.number in self._waiting or slot.number in self._scripts:
            raise RuntimeError(f"slot {slot.number} is busy")
        if job.run_id and job.fresh:
            self._begin(slot, job)
            return
        if job.run_id:
            goes_on = self._project.resumes and self._checkpoint(job.trial_id).exists()
            self._events.put(Renewed(job.trial_id, goes_on))
        self._waiting[slot.number] = job

    def located(self, trial_id: int, location: str, run_id: str) -> None:
        """Start the script of a trial whose run is there."""
        for number, job in self._waiting.items():
            if job.trial_id == trial_id:
                del self._waiting[number]
                self._begin(self.slots[number], replace(job, location=location, run_id=run_id))
                return

    def wait(self, timeout: float) -> list[Event]:
        """Return what the scripts' threads told; soon while a script waits for its run."""
        try:
            events = [self._events.get(timeout=min(timeout, TICK) if self._waiting else timeout)]
        except queue.Empty:
            return []
        while not self._events.empty():
            events.append(self._events.get())
        for event in events:
            if isinstance(event, Ended):
                self._over(event.trial_id)
        return events

    def reply(self, trial_id: int, *, go_on: bool, best: bool) -> None:
        """Answer a report."""
        del best
        if (script := self._of(trial_id)) is not None:
            script.reply(go_on=go_on)

    def interrupt(self, trial_id: int) -> None:
        """Ask a script to end; one that has not begun never does."""
        if (script := self._of(trial_id)) is not None:
            script.interrupt()
        else:
            self._withdraw(trial_id, "")

    def kill(self, trial_id: int, reason: str) -> None:
        """End a script by force."""
        if (script := self._of(trial_id)) is not None:
            script.kill(reason)
        else:
            self._withdraw(trial_id, reason)

    @property
    def uploads(self) -> int:
        """How many outputs are still on their way to the store."""
        self._storing = [script for script in self._storing if script.storing]
        return len(self._storing)

    def drain(self, timeout: float) -> list[Event]:
        """Wait until all outputs are stored, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.uploads and (left := deadline - time.monotonic()) > 0:
            self._storing[0].join(left)
        return self.wait(0.0) if self._events.qsize() else []

    def forget(self, trial_id: int) -> None:
        """Remove the checkpoint of a trial that will not go on."""
        shutil.rmtree(self._checkpoint(trial_id).parent, ignore_errors=True)

    def close(self) -> None:
        """End all scripts and wait for them."""
        for script in self._scripts.values():
            script.leave()
        for script in self._scripts.values():
            script.join()
        for script in self._storing:
            script.join(LAST_OUTPUTS)
        self._scripts.clear()
        self._storing.clear()
        self._waiting.clear()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _begin(self, slot: Slot, job: TrialJob) -> None:
        self._jobs += 1
        folder = self._folder / f"job-{self._jobs:05d}"
        checkpoint = self._checkpoint(job.trial_id)
        for each in (folder, checkpoint.parent):
            each.mkdir(parents=True, exist_ok=True)
        if self._guard is None:
            raise RuntimeError("the launcher is not started")
        self._scripts[slot.number] = Script(
            *(job, slot, self._project, self._services),
            folder=folder,
            home=self._home(slot),
            checkpoint=checkpoint,
            guard=self._guard,
            habits=self._habits,
            tell=self._events.put,
        )

    def _home(self, slot: Slot) -> Path:
        """Return where the scripts of a slot run."""
        if not self._project.copies:
            return self._project.folder
        home = self._folder / f"project-{slot.number}"
        if not home.exists():
            try:
                shutil.copytree(self._project.folder, home, symlinks=True)
            except OSError as error:
                line = " ".join(str(error).split())
                raise StudyError(f"project.copies: cannot copy the project: {line:.300}") from error
        return home

    def _over(self, trial_id: int) -> None:
        for number, script in self._scripts.items():
            if script.job.trial_id == trial_id:
                script.over = True
                self._storing.append(self._scripts.pop(number))
                return

    def _withdraw(self, trial_id: int, reason: str) -> None:
        """End a job that has not begun."""
        for number, job in self._waiting.items():
            if job.trial_id == trial_id:
                del self._waiting[number]
                outcome = Outcome.FAILED if reason else Outcome.STOPPED
                self._events.put(Ended(trial_id, outcome, 0.0, reason))
                return

    def _of(self, trial_id: int) -> Script | None:
        return next((each for each in self._scripts.values() if each.job.trial_id == trial_id), None)

    def _checkpoint(self, trial_id: int) -> Path:
        return self._folder / f"trial-{trial_id:04d}" / "checkpoint"
