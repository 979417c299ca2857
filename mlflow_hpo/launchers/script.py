"""Script: one job of a project, a process that is followed by what it logs to its run."""

from __future__ import annotations

import logging
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlflow_hpo.errors import HpoError, StoreAwayError
from mlflow_hpo.launchers.base import (
    Cause,
    Ended,
    Event,
    Heartbeat,
    Outcome,
    Reported,
    Services,
    Slot,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.output import end_of
from mlflow_hpo.launchers.processes import TICK, Command, Guard, signal_name
from mlflow_hpo.launchers.progress import Progress
from mlflow_hpo.launchers.project_contract import Project
from mlflow_hpo.patience import lasting_environment
from mlflow_hpo.steps import Point

T = TypeVar("T")

LOG = "output.log"  # name of a script's output in the artifacts of its run
DOWNLOADS = "downloads"  # name of the folder of what its parameters name
LOG_TAIL = 4_000  # characters of it that are worth keeping in a tag
LOG_END = 1_000  # and bytes that its last line is looked for in
BY_SIGNAL = 128  # added to a signal it is the exit code of a shell whose command it ended
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)  # nobody exits by these by chance
AWAY = 5  # times the usual interval between two looks while the store is away
SHARE = 10  # a script's metrics are looked at for at most one part in so many of the time
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}  # else a script that is killed takes its last words with it
LONGEST_PAUSE = 30.0  # seconds between two looks while the tracking store is away

logger = logging.getLogger(__name__)


@dataclass
class Habits:
    """What the scripts of a project are seen to do, shared by all of them."""

    by_step: bool = False  # they log epoch by epoch


class Script:
    """One job: starts the script, follows it, and stops it, from a thread of its own.

    Every report waits for its answer, so what the script has logged meanwhile is told in its order. The last
    event is `Ended`; then the output is stored, which `storing` tells.

    Args:
        job: what is to be trained, with the id of its run.
        slot: where.
        project: whose entry point.
        services: reads and writes the store.
        folder: this job's own, for its output and downloads; removed at the end.
        home: where the script runs.
        checkpoint: where the script keeps its checkpoint, if it takes one.
        guard: ends the script should this process die.
        habits: of the project.
        tell: takes the events; thread-safe.
    """

    def __init__(
        self,
        job: TrialJob,
        slot: Slot,
        project: Project,
        services: Services,
        *,
        folder: Path,
        home: Path,
        checkpoint: Path,
        guard: Guard,
        habits: Habits,
        tell: Callable[[Event], None],
    ) -> None:
        self.job = job
        self.slot = slot
        self.over = False  # `Ended` was heard; set by the launcher
        self._project = project
        self._services = services
        self._folder = folder
        self._log = folder / LOG
        self._home = home
        self._checkpoint = checkpoint
        self._guard = guard
        self._habits = habits
        self._tell = tell
        goes_on = project.resumes and checkpoint.exists()
        self._progress = Progress(
            project.metrics,
            # what was reported is in its run already, and is not trained again
            max(job.start, job.reached) if goes_on else 0,
            job.stop,
            most=project.max_resource,
            counted=project.counts_values,
        )
        self._replies: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._asked = threading.Event()  # to end
        self._blind = False  # the store is away
        self._killed = ""  # why it is ended by force
        self._cause = Cause.TRAINING  # of a failure
        self._leaving = False  # the study is over: nobody hears what is told
        self._command: Command | None = None
        self._thread = threading.Thread(
            target=self._run, daemon=True, name=f"mlflow-hpo-script-{job.trial_id}"
        )
        self._thread.start()

    def reply(self, *, go_on: bool) -> None:
        """Answer a report."""
        self._replies.put(go_on)

    def interrupt(self) -> None:
        """End the script in mid-epoch; the job is STOPPED."""
        self._asked.set()

    def kill(self, reason: str) -> None:
        """End the script; the job has failed."""
        self._killed = self._killed or reason
        self._asked.set()
        self._replies.put(False)  # it may wait for an answer that will not come

    def leave(self) -> None:
        """End the script; nothing more is told. `join` waits for it."""
        self._leaving = True
        self.kill("the study ended")

    def join(self, timeout: float | None = None) -> None:
        """Wait until all is over."""
        self._thread.join(timeout)

    @property
    def storing(self) -> bool:
        """Whether the job is over but its output still on its way to the store."""
        return self.over and self._thread.is_alive()

    def _run(self) -> None:
        begin, reason, details = time.monotonic(), "", ""
        try:
            outcome, reason = self._train()
        except Exception as error:
            logger.debug("trial %d", self.job.trial_id, exc_info=True)
            outcome = Outcome.FAILED
            reason = str(error) if isinstance(error, HpoError) else f"{type(error).__name__}: {error}"
            reason = reason.splitlines()[0][:500] if reason else type(error).__name__
        finally:
            if self._command is not None:
                self._command.kill()  # also what it may have left behind
        if outcome is Outcome.FAILED:
            details = _end(self._log, LOG_TAIL)
        self._event(Ended(self.job.trial_id, outcome, time.monotonic() - begin, reason, details, self._cause))
        self._keep_log()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _train(self) -> tuple[Outcome, str]:
        """Run the script to its end, or to where it is stopped; return the outcome and why it failed."""
        job, project = self.job, self._project
        downloads = self._folder / DOWNLOADS
        downloads.mkdir()
        line = project.command(
            job.params,
            job.stop,
            seed=job.seed,
            checkpoint=self._checkpoint,
            downloads=downloads,
            env=self._services.environment(
                job.run_id, {**UNBUFFERED, **lasting_environment(), **self.slot.env}
            ),
        )
        self._command = Command(line, folder=self._home, output=self._log, guard=self._guard)
        while True:
            code = self._command.code  # before what it has logged is read: then nothing is missed
            logged, pause = self._look(over=code is not None)
            if self._killed:
                return self._ended(Outcome.FAILED, self._killed)
            if logged is not None and not self._pass_on(logged, code):
                return self._ended(*self._stopped())
            if self._asked.is_set():
                return self._ended(*self._stopped())
            if (step := self._progress.misplaced) is not None:
                return self._ended(Outcome.FAILED, self._no_epoch(step))
            if code is not None:
                return self._by_itself(code)
            if self._progress.complete and (self._progress.beyond or not self._ends_by_itself):
                return self._ended(Outcome.COMPLETED, "")
            self._wait(pause)

    @property
    def _ends_by_itself(self) -> bool:
        """Whether the script may be expected to end at the job's last epoch."""
        return self._project.sets_resource or self.job.stop >= self._project.max_resource

    def _ended(self, outcome: Outcome, reason: str) -> tuple[Outcome, str]:
        if self._command is not None:
            forced = self._killed and not self._leaving
            self._command.end(0.0 if forced else self._project.stop_grace)
        return outcome, reason

    def _stopped(self) -> tuple[Outcome, str]:
        return (Outcome.FAILED, self._killed) if self._killed else (Outcome.STOPPED, "")

    def _look(self, *, over: bool) -> tuple[Mapping[str, Sequence[Point]] | None, float]:
        """Return what is logged, and for how long to wait until the next look; None while it cannot be read.

        Once the script is over this waits until it can.
        """
        interval = self._project.poll_interval
        begin = time.monotonic()
        logged: Mapping[str, Sequence[Point]] | None
        try:
            logged = self._services.logged(self.job.run_id, self._project.metrics)
        except StoreAwayError:
            self._see(nothing=True)
            if not over:
                return None, min(LONGEST_PAUSE, AWAY * interval)
            logged = self._patiently(lambda: self._services.logged(self.job.run_id, self._project.metrics))
        self._see(nothing=False)
        return logged, max(interval, SHARE * (time.monotonic() - begin))

    def _see(self, *, nothing: bool) -> None:
        """Tell when what the script logs cannot be seen: then no sign of life means nothing."""
        if nothing is not self._blind:
            self._blind = nothing
            self._event(Heartbeat(self.job.trial_id, waits=nothing))

    def _patiently(self, ask: Callable[[], T]) -> T | None:
        """Return what the store says, however long it is away; None if the script is asked to end before."""
        pause = self._project.poll_interval
        while not self._asked.is_set():
            try:
                return ask()
            except StoreAwayError:
                self._asked.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
        return None

    def _pass_on(self, logged: Mapping[str, Sequence[Point]], code: int | None) -> bool:
        """Report what is new; return whether to go on."""
        news = self._progress.news(
            logged, by_step=self._habits.by_step, over=code is not None, whole=code == 0
        )
        self._habits.by_step = self._habits.by_step or self._progress.by_step
        return all(self._report(told.epoch, told.metrics, told.time) for told in news)

    def _report(self, epoch: int, metrics: dict[str, float], at: float) -> bool:
        if self._asked.is_set():
            return False
        self._event(Reported(self.job.trial_id, epoch, metrics, at))
        return self._replies.get()

    def _by_itself(self, code: int) -> tuple[Outcome, str]:
        """Return what it means that the script has ended with an exit code."""
        if code != 0:
            died = f"exit code {code}"
            if (name := _signal(code)) is not None:
                died, self._cause = f"signal {name}", Cause.LOST
            last = _end(self._log, LOG_END).splitlines()[-1:]
            return Outcome.FAILED, f"the script ended with {died}{': ' if last else ''}{''.join(last)}"[:500]
        if self._progress.complete:
            return Outcome.COMPLETED, ""
        others = self._patiently(lambda: self._services.last_values(self.job.run_id))
        if self._asked.is_set():
            return self._stopped()
        if not others:
            return Outcome.FAILED, "the script ended without an error, but logged no metric to its run"
        self._report(self.job.stop, others, time.time())  # who hears it says what is missing
        return Outcome.FAILED, self._killed or f"the script ended without logging {self._project.metrics[0]}"

    def _no_epoch(self, step: int) -> str:
        return (
            f"the script logs {self._project.metrics[0]} first at step {step}, behind max_resource "
            f"({self._project.max_resource}); if its steps are no epochs, set project.steps to count"
        )

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than the script runs and nobody asks it to end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._command is not None and self._command.code is None:
            if self._asked.wait(TICK):
                return

    def _keep_log(self) -> None:
        """Store the output in the run's artifacts."""
        if self._leaving or not self._log.is_file() or self._log.stat().st_size == 0:
            return
        try:
            self._services.keep_log(self.job.location, self._log)
        except Exception as error:  # noqa: BLE001 - artifact stores raise what they like
            line = " ".join(str(error).split())
            self._event(Warned(self.job.trial_id, f"its output is not stored: {line:.300}"))

    def _event(self, event: Event) -> None:
        if not self._leaving:
            self._tell(event)


def _signal(code: int) -> str | None:
    """Return which signal ended a script, or what its shell has run; None where it exited by itself."""
    number = -code if code < 0 else code - BY_SIGNAL
    return signal_name(number) if code < 0 or number in CRASHES else None


def _end(log: Path, size: int) -> str:
    try:
        return end_of(log, size)
    except OSError:
        return ""
