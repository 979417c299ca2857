"""Jobs of a real launcher against stores and monitors of the tests; workers import this."""

import contextlib
import time
from pathlib import Path

import trainings

from mlflow_hpo.errors import CorruptCheckpointError
from mlflow_hpo.launchers.base import Ended, Reported, TrialJob
from mlflow_hpo.launchers.local import LocalLauncher

PARAMS = {"x": 0.5, "kind": "round"}


class FolderStore:
    """Checkpoints in a folder; a file named `*.corrupt` fails its check."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def upload(self, epoch, path):
        self.folder.mkdir(exist_ok=True)
        name = f"{epoch}.ckpt"
        (self.folder / name).write_bytes(path.read_bytes())
        return name

    def names(self):
        found = ((int(path.name.split(".")[0]), path.name) for path in self.folder.glob("*"))
        return sorted(found, reverse=True)

    def download(self, name, folder):
        if name.endswith(".corrupt"):
            raise CorruptCheckpointError("planted")
        return self.folder / name


class Readings:
    def sample(self):
        return {"system/test": 1.0}


class FolderServices:
    def checkpoints(self, location):
        return FolderStore(location)

    def monitor(self):
        return Readings()

    def check(self):
        pass

    def within(self, params, reported, run_id):
        return contextlib.nullcontext()


class Run:
    """Runs jobs of one training to their ends, answering each report as told."""

    services = FolderServices
    make = LocalLauncher

    def __init__(self, tmp_path, train, workers=1):
        self.folder = tmp_path
        self.launcher = self.make(workers)
        (tmp_path / "work").mkdir()
        self.launcher.start(train, self.services(), tmp_path / "work")

    def submit(self, trial_id=0, params=PARAMS, start=0, stop=3, location=None):
        location = str(self.folder / f"store-{trial_id}") if location is None else location
        job = TrialJob(trial_id, dict(params), start, stop, 1, location)
        self.launcher.submit(self.slot(), job)

    def close(self):
        self.launcher.close()

    def slot(self):
        """Return a free slot, once there is one."""
        deadline = time.monotonic() + 60
        while (slot := self.launcher.free_slot) is None:
            assert time.monotonic() < deadline, "no slot"
            assert self.launcher.wait(1.0) == []
        return slot

    def until(self, wanted, go_on=True, best=False):
        """Return the events up to the first that `wanted` accepts."""
        events, deadline = [], time.monotonic() + 60
        while not any(wanted(event) for event in events):
            assert time.monotonic() < deadline, events
            for event in self.launcher.wait(1.0):
                events.append(event)
                if isinstance(event, Reported) and not wanted(event):
                    self.launcher.reply(event.trial_id, go_on=go_on, best=best)
        return events

    def to_end(self, **answer):
        """Return the job's end, and the events up to it and until its checkpoints are stored."""
        events = self.until(lambda event: isinstance(event, Ended), **answer)
        [end] = [event for event in events if isinstance(event, Ended)]
        return end, events + self.launcher.drain(60)


class NamedRun(Run):
    """Runs jobs of the functions of `trainings`, each new one for another trial."""

    def __init__(self, tmp_path, workers=1):
        super().__init__(tmp_path, trainings.named, workers)
        self.trial_id = -1

    @property
    def store(self):
        """The folder with the checkpoints of the last trial."""
        return self.folder / f"store-{self.trial_id}"

    def begin(self, train, params=PARAMS, **job):
        """Begin with another trial."""
        self.trial_id += 1
        self.go_on(train, params, **job)

    def go_on(self, train, params=PARAMS, **job):
        """Let the last trial go on."""
        self.submit(self.trial_id, {**params, "train": train}, **job)


@contextlib.contextmanager
def starting(kind, tmp_path):
    """Yield what starts a launcher for a training, as a `Run` of some kind; all are closed at the end."""
    runs = []

    def start(train, workers=1):
        runs.append(kind(tmp_path, train, workers))
        return runs[-1]

    yield start
    for run in runs:
        run.close()
