"""The project launcher: scripts as processes, followed by what they log; here, to a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import wait_for

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.errors import ConfigError, StoreAwayError
from mlflow_hpo.launchers.base import (
    Cause,
    Ended,
    Event,
    Heartbeat,
    Outcome,
    Renewed,
    Reported,
    TrialJob,
    Warned,
)
from mlflow_hpo.launchers.project import ProjectLauncher
from mlflow_hpo.steps import Point

LOG = """
import json, os, signal, sys, time
def log(step, value, name="acc"):
    with open(os.environ["RUN"], "a") as file:
        file.write(json.dumps([name, step, time.time(), value]) + "\\n")
"""


class Services:
    """Runs are files of lines; `away` makes the store fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.away = False
        self.looks = 0
        self.kept: dict[str, str] = {}

    def environment(self, run_id: str, present: Mapping[str, str]) -> dict[str, str]:
        return {**present, "RUN": str(self.folder / run_id)}

    def logged(self, run_id: str, metrics: Sequence[str]) -> dict[str, list[Point]]:
        self.looks += 1
        if self.away:
            raise StoreAwayError("away")
        lines = self._lines(run_id)
        return {name: [Point(*rest) for other, *rest in lines if other == name] for name in metrics}

    def last_values(self, run_id: str) -> dict[str, float]:
        return {name: value for name, _, _, value in self._lines(run_id)}

    def keep_log(self, location: str, path: Path) -> None:
        self.kept[location] = path.read_text()

    def _lines(self, run_id: str) -> list[Any]:
        path = self.folder / run_id
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Project:
    """A Python script; what it is given stands in `sys.argv`."""

    def __init__(self, folder: Path, code: str, **options: Any) -> None:
        self.folder = folder
        self.metrics: Sequence[str] = ["acc"]
        self.max_resource = 9
        self.sets_resource = False
        self.resumes = self.copies = self.counts_values = False
        self.poll_interval = 0.05
        self.stop_grace = 5.0
        self.__dict__.update(options)
        self._code = LOG + textwrap.dedent(code)

    def command(
        self,
        params: Mapping[str, object],
        stop: int,
        *,
        seed: int,
        checkpoint: Path,
        downloads: Path,
        env: Mapping[str, str],
    ) -> CommandLine:
        assert list(downloads.iterdir()) == []
        arguments = [sys.executable, "-c", self._code, json.dumps(params), str(stop), str(checkpoint)]
        return CommandLine(arguments, env)

    def check_params(self, space: object) -> None: ...

    def prepare(self) -> None: ...

    def describe(self) -> dict[str, str]:
        return {"data": "script"}


class Jobs:
    """A launcher, and what a study does with it."""

    def __init__(self, folder: Path, code: str, **options: Any) -> None:
        (folder / "runs").mkdir()
        self.services = Services(folder / "runs")
        self.project = Project(folder, code, **options)
        self.launcher = ProjectLauncher(1)
        (folder / "work").mkdir()
        self.launcher.start(self.project, self.services, folder / "work")

    def begin(
        self, trial_id: int = 0, *, start: int = 0, stop: int = 9, run_id: str = "", fresh: bool = False
    ) -> None:
        slot = self.launcher.free_slot
        assert slot is not None
        self.launcher.submit(
            slot, TrialJob(trial_id, {"x": 1}, start, stop, 0, "", run_id=run_id, fresh=fresh)
        )

    def locate(self, trial_id: int = 0, run_id: str = "run") -> None:
        self.launcher.located(trial_id, f"artifacts-of-{run_id}", run_id)

    def until(self, kind: type[Event], stop_at: int = 10**9) -> list[Event]:
        """Return the events up to the first of a kind; reports are answered, with a stop from an epoch on."""
        events: list[Event] = []
        deadline = time.monotonic() + 60
        while not any(isinstance(event, kind) for event in events):
            assert time.monotonic() < deadline, events
            for event in self.launcher.wait(0.2):
                events.append(event)
                if isinstance(event, Reported):
                    self.launcher.reply(event.trial_id, go_on=event.epoch < stop_at, best=False)
        return events

    def to_end(self, stop_at: int = 10**9) -> tuple[Ended, list[int]]:
        """Return the end of the job, and the epochs that it reported."""
        events = self.until(Ended, stop_at)
        [end] = [event for event in events if isinstance(event, Ended)]
        return end, [event.epoch for event in events if isinstance(event, Reported)]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def start(code: str, **options: Any) -> Jobs:
            made = Jobs(tmp_path, code, **options)
            stack.callback(made.launcher.close)
            return made

        yield start


STEPS = """
for step in range(9):
    log(step, step / 10)
    time.sleep(0.1)
print("trained")
"""


def test_a_script_is_followed_to_its_end(jobs: Any) -> None:
    made = jobs(STEPS)
    made.begin()
    assert made.launcher.free_slot is None
    made.locate()
    end, epochs = made.to_end()
    assert (end.outcome, end.reason) == (Outcome.COMPLETED, "")
    assert epochs == list(range(1, 10))
    assert made.launcher.free_slot is not None
    made.launcher.drain(10)
    assert made.services.kept == {"artifacts-of-run": "trained\n"}


def test_it_begins_at_once_where_its_run_is_there(jobs: Any) -> None:
    made = jobs(STEPS)
    made.begin(run_id="run", fresh=True)
    assert made.to_end()[0].outcome is Outcome.COMPLETED


def test_each_slot_may_have_a_copy_of_the_project(jobs: Any, tmp_path: Path) -> None:
    home = tmp_path / "project"
    home.mkdir()
    (home / "data").write_text("7")
    made = jobs("log(0, float(open('data').read()))\nopen('model', 'w').close()", copies=True)
    made.project.folder = home
    made.begin()
    made.locate()
    assert made.to_end()[0].outcome is Outcome.COMPLETED
    assert [path.name for path in home.iterdir()] == ["data"]


def test_it_waits_for_its_run(jobs: Any) -> None:
    made = jobs(STEPS)
    made.begin()
    assert made.launcher.wait(0.3) == []
    assert not (made.services.folder / "run").exists()
    made.launcher.interrupt(0)
    end, epochs = made.to_end()
    assert (end.outcome, epochs) == (Outcome.STOPPED, [])


def test_a_stop_ends_it_with_all_its_children(jobs: Any, tmp_path: Path) -> None:
    made = jobs(
        """
        import subprocess
        child = subprocess.Popen(["sleep", "600"])
        stray = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open("children", "w").write(f"{child.pid} {stray.pid}")
        for step in range(600):
            log(step, step)
            time.sleep(0.1)
        """
    )
    made.begin()
    made.locate()
    end, epochs = made.to_end(stop_at=3)
    assert end.outcome is Outcome.STOPPED
    assert epochs == [1, 2, 3]
    assert_gone(int(pid) for pid in (tmp_path / "children").read_text().split())


def assert_gone(pids: Iterator[int]) -> None:
    for pid in pids:
        wait_for(lambda pid=pid: not alive(pid), 10, f"the end of process {pid}")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_may_tidy_up_when_it_is_stopped(jobs: Any, tmp_path: Path) -> None:
    made = jobs(
        """
        def tidy(*_):
            open("tidied", "w").close()
            sys.exit(3)
        signal.signal(signal.SIGTERM, tidy)
        for step in range(600):
            log(step, step)
            time.sleep(0.1)
        """
    )
    made.begin()
    made.locate()
    assert made.to_end(stop_at=2)[0].outcome is Outcome.STOPPED
    assert (tmp_path / "tidied").exists()


def test_one_that_does_not_obey_is_killed(jobs: Any) -> None:
    made = jobs(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for step in range(600):
            log(step, step)
            time.sleep(0.1)
        """,
        stop_grace=0.3,
    )
    made.begin()
    made.locate()
    end, _ = made.to_end(stop_at=2)
    assert end.outcome is Outcome.STOPPED
    assert end.seconds < 60


def test_at_a_rung_it_is_ended(jobs: Any) -> None:
    made = jobs(STEPS.replace("range(9)", "range(600)"))
    made.begin(stop=3)
    made.locate()
    end, epochs = made.to_end()
    assert (end.outcome, epochs) == (Outcome.COMPLETED, [1, 2, 3])


def test_at_its_last_epoch_it_may_end_by_itself(jobs: Any) -> None:
    made = jobs(STEPS + "time.sleep(0.5)\nprint('saved')")
    made.begin(stop=9)
    made.locate()
    made.to_end()
    made.launcher.drain(10)
    assert "saved" in made.services.kept["artifacts-of-run"]


def test_one_that_trains_on_behind_it_is_ended(jobs: Any) -> None:
    made = jobs(STEPS.replace("range(9)", "range(600)"))
    made.begin(stop=9)
    made.locate()
    end, epochs = made.to_end()
    assert (end.outcome, epochs[-1]) == (Outcome.COMPLETED, 9)


def test_a_metric_logged_once_is_that_of_a_full_training(jobs: Any) -> None:
    made = jobs("log(0, 0.7)\ntime.sleep(0.3)")
    made.begin()
    made.locate()
    end, epochs = made.to_end()
    assert (end.outcome, epochs) == (Outcome.COMPLETED, [9])


def test_a_failure_has_its_last_words(jobs: Any) -> None:
    made = jobs("log(0, 0.1)\nlog(1, 0.2)\nraise ValueError('no such thing')")
    made.begin()
    made.locate()
    end, epochs = made.to_end()
    assert end.outcome is Outcome.FAILED
    assert end.reason == "the script ended with exit code 1: ValueError: no such thing"
    assert "Traceback" in end.details
    assert epochs == [1, 2]


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), signal.SIGSEGV)", "sys.exit(128 + signal.SIGSEGV)"])
def test_a_signal_is_named(jobs: Any, code: str) -> None:
    made = jobs(code)
    made.begin()
    made.locate()
    end, _ = made.to_end()
    assert end.reason.startswith("the script ended with signal SIGSEGV")
    assert end.cause is Cause.LOST, "it may go better the next time"


def test_nothing_is_left_of_a_job(jobs: Any, tmp_path: Path) -> None:
    made = jobs("print('trained')\nlog(0, 0.5)")
    made.begin()
    made.locate()
    made.to_end()
    made.launcher.drain(60)
    assert made.services.kept == {"artifacts-of-run": "trained\n"}
    assert list((tmp_path / "work").glob("job-*")) == []


def test_a_metric_that_is_never_logged(jobs: Any) -> None:
    made = jobs("log(0, 0.1, name='accuracy')")
    made.begin()
    made.locate()
    events = made.until(Reported)
    assert isinstance(events[-1], Reported)
    assert events[-1].metrics == {"accuracy": 0.1}
    made.launcher.kill(0, "it is not among them")
    assert made.to_end()[0].reason == "it is not among them"


def test_steps_that_are_no_epochs(jobs: Any) -> None:
    made = jobs("log(49, 1)\nlog(99, 2)\ntime.sleep(600)")
    made.begin()
    made.locate()
    end, epochs = made.to_end()
    assert (end.outcome, epochs) == (Outcome.FAILED, [])
    assert end.reason == (
        "the script logs acc first at step 49, behind max_resource (9); if its steps are no epochs, set "
        "project.steps to count"
    )


def test_no_metric_at_all(jobs: Any) -> None:
    made = jobs("print('nothing to tell')")
    made.begin()
    made.locate()
    assert "logged no metric" in made.to_end()[0].reason


def test_a_command_that_cannot_be_started(jobs: Any) -> None:
    made = jobs(STEPS)
    made.project.command = lambda *_, **__: CommandLine(["/no/such/command"], {})
    made.begin()
    made.locate()
    end, _ = made.to_end()
    assert end.outcome is Outcome.FAILED
    assert "/no/such/command" in end.reason


def test_a_store_that_is_away_is_waited_for(jobs: Any, tmp_path: Path) -> None:
    made = jobs(STEPS + "open('over', 'w').close()")
    made.services.away = True
    made.begin()
    made.locate()
    wait_for((tmp_path / "over").exists, 60, "the script")
    looks = made.services.looks
    wait_for(lambda: made.services.looks > looks + 2, 20, "a few looks")
    assert made.launcher.wait(0.1) == [Heartbeat(0, waits=True)]
    assert made.launcher.wait(0.1) == [], "nobody knows yet what it has reached"
    made.services.away = False
    end, epochs = made.to_end()
    assert end.outcome is Outcome.COMPLETED
    assert epochs == list(range(1, 10))


def test_no_sign_of_life_is_expected_while_the_store_is_away(jobs: Any) -> None:
    made = jobs("time.sleep(600)")
    made.services.away = True
    made.begin()
    made.locate()
    assert made.until(Heartbeat) == [Heartbeat(0, waits=True)]
    made.services.away = False
    assert made.until(Heartbeat) == [Heartbeat(0, waits=False)]


def test_an_interrupt_does_not_wait_for_the_store(jobs: Any) -> None:
    made = jobs(STEPS)
    made.services.away = True
    made.begin()
    made.locate()
    made.until(Heartbeat)
    assert made.launcher.wait(1.5) == []
    made.launcher.interrupt(0)
    assert made.to_end()[0].outcome is Outcome.STOPPED


def test_a_kill_is_a_failure_with_a_reason(jobs: Any) -> None:
    made = jobs(STEPS.replace("range(9)", "range(600)"))
    made.begin()
    made.locate()
    made.until(Reported)
    made.launcher.kill(0, "it took too long")
    end, _ = made.to_end()
    assert (end.outcome, end.reason) == (Outcome.FAILED, "it took too long")


def test_a_trial_that_begins_again_gets_a_new_run(jobs: Any) -> None:
    made = jobs(STEPS)
    made.begin(start=3, run_id="before")
    assert made.until(Renewed) == [Renewed(0, goes_on=False)]
    made.locate(run_id="after")
    end, epochs = made.to_end()
    assert end.outcome is Outcome.COMPLETED
    assert epochs == list(range(1, 10)), "epochs are trained, and count, twice"
    assert not (made.services.folder / "before").exists()


CHECKPOINTS = """
stop, checkpoint = int(sys.argv[2]), sys.argv[3]
begin = int(open(checkpoint).read()) if os.path.exists(checkpoint) else 0
for step in range(begin, stop):
    log(step, step)
open(checkpoint, "w").write(str(stop))
"""


def test_a_trial_goes_on_from_the_script_s_own_checkpoint(jobs: Any) -> None:
    made = jobs(CHECKPOINTS, sets_resource=True, resumes=True)
    made.begin(stop=3)
    made.locate(run_id="one")
    assert made.to_end()[1] == [1, 2, 3]
    made.begin(start=3, stop=9, run_id="one")
    assert made.until(Renewed) == [Renewed(0, goes_on=True)]
    (made.services.folder / "two").write_text((made.services.folder / "one").read_text())
    made.locate(run_id="two")
    assert made.to_end()[1] == list(range(4, 10))
    assert len((made.services.folder / "two").read_text().splitlines()) == 9
    made.launcher.forget(0)
    made.begin(start=3, stop=9, run_id="two")
    assert made.until(Renewed) == [Renewed(0, goes_on=False)], "nothing is left to go on from"


def test_a_log_that_cannot_be_stored_is_told(jobs: Any) -> None:
    made = jobs(STEPS)
    made.services.keep_log = lambda *_: 1 / 0
    made.begin()
    made.locate()
    events = made.until(Warned)
    assert [type(event) for event in events if not isinstance(event, Reported)] == [Ended, Warned]
    assert "output is not stored" in events[-1].message


def test_close_ends_what_runs(jobs: Any, tmp_path: Path) -> None:
    made = jobs("open('pid', 'w').write(str(os.getpid()))\nlog(0, 1)\nlog(1, 1)\ntime.sleep(600)")
    made.begin()
    made.locate()
    made.until(Reported)
    made.launcher.close()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    driver = f"""
import sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.launchers.processes import Command, Guard
import os, time
command = Command(
    CommandLine(["bash", "-c", "echo $$ > pid; sleep 600 & wait"], os.environ),
    folder=Path({str(tmp_path)!r}), output=Path({str(tmp_path / "out")!r}), guard=Guard(),
)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", driver])
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", 60, "a script")
        script = int((tmp_path / "pid").read_text())
        assert alive(script)
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: not group_lives(script), 20, "the end of the script")
    finally:
        process.kill()
        process.wait()


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_only_projects_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="launcher: 'project' runs MLflow projects: mlflow run URI"):
        ProjectLauncher(1).check(lambda trial: None)
    with pytest.raises(ConfigError, match="workers: must be 1 or more, got 0"):
        ProjectLauncher(0)
