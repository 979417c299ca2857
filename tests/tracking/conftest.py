import threading
from types import SimpleNamespace

import pytest

from mlflow_hpo.tracking import writer as writer_module
from mlflow_hpo.tracking.writer import Writer


class Store:
    """A client that notes the requests it gets, and refuses some of them.

    Args:
        refusals: so many of the first requests fail.
        error: with this.
    """

    def __init__(self, refusals=0, error=None):
        self.requests = []
        self.tries = 0
        self.refusals = refusals
        self.error = error or ConnectionError("gone away")
        self.open = threading.Event()  # requests wait for it
        self.open.set()
        self.runs = []
        self.lose_answers = 0  # so many runs are created without an answer

    def _take(self, *request):
        self.open.wait(10)
        self.tries += 1
        if self.refusals:
            self.refusals -= 1
            raise self.error
        self.requests.append(request)

    def log_batch(self, run_id, metrics, params, tags):
        values = {m.step: m.value for m in metrics}
        self._take("batch", run_id, values, {p.key: p.value for p in params}, {t.key: t.value for t in tags})

    def update_run(self, run_id, status):
        self._take("status", run_id, status)

    def set_terminated(self, run_id, status, end_time):
        self._take("end", run_id, status)

    def create_run(self, experiment_id, start_time, tags, run_name):
        self._take("create", run_name)
        info = SimpleNamespace(run_id=f"run{len(self.runs)}", run_name=run_name, start_time=start_time)
        self.runs.append(SimpleNamespace(info=info))
        if self.lose_answers:
            self.lose_answers -= 1
            raise ConnectionError("no answer")
        return self.runs[-1]

    def search_runs(self, experiment_ids, filter_string, max_results):
        return [run for run in self.runs if f"start_time = {run.info.start_time}" in filter_string]

    def points(self):
        """All points that were written, in order."""
        return [
            (request[1], step, value)
            for request in self.requests
            if request[0] == "batch"
            for step, value in request[2].items()
        ]


@pytest.fixture
def make_store():
    return Store


@pytest.fixture(autouse=True)
def spools(tmp_path, monkeypatch):
    """The folder of spools."""
    folder = tmp_path / "spool"
    monkeypatch.setenv("MLFLOW_HPO_SPOOL", str(folder))
    return folder


@pytest.fixture
def hasty(monkeypatch):
    """Tries follow each other at once, and outages are told early."""
    monkeypatch.setattr(writer_module, "pause", lambda failures: 0.01)
    monkeypatch.setattr(writer_module, "AWAY", 0.05)
    monkeypatch.setattr(writer_module, "LOOK", 0.02)


@pytest.fixture
def start(hasty):
    writers = []

    def start(store, **options):
        writers.append(Writer(store, **{"patience": 1.0, **options}))
        return writers[-1]

    yield start
    for writer in writers:
        writer.close()
