"""Jobs of a real launcher against stores and monitors of the tests; workers import this."""

import contextlib
import time
from pathlib import Path

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


class Run:
    """Runs jobs of one training to their ends, answering each report as told."""

    services = FolderServices

    def __init__(self, tmp_path, train, workers=1):
        self.folder = tmp_path
        self.launcher = LocalLauncher(workers)
        (tmp_path / "work").mkdir()
        self.launcher.start(train, self.services(), tmp_path / "work")

    def submit(self, trial_id=0, params=PARAMS, start=0, stop=3, location=None):
        location = str(self.folder / f"store-{trial_id}") if location is None else location
        job = TrialJob(trial_id, dict(params), start, stop, 1, location)
        self.launcher.submit(self.launcher.free_slot, job)

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


@contextlib.contextmanager
def starting(kind, tmp_path):
    """Yield what starts a launcher for a training, as a `Run` of some kind; all are closed at the end."""
    runs = []

    def start(train, workers=1):
        runs.append(kind(tmp_path, train, workers))
        return runs[-1]

    yield start
    for run in runs:
        run.launcher.close()
