import threading

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from mlflow_hpo import StudyError
from mlflow_hpo.tracking import writer as writer_module
from mlflow_hpo.tracking.writer import Writer


class Store:
    """A client that notes the requests it gets, and refuses the first `refusals` of them."""

    def __init__(self, refusals=0, error=None):
        self.requests = []
        self.refusals = refusals
        self.error = error or ConnectionError("gone away")
        self.open = threading.Event()
        self.open.set()

    def _take(self, *request):
        self.open.wait(10)
        if self.refusals:
            self.refusals -= 1
            raise self.error
        self.requests.append(request)

    def log_batch(self, run_id, metrics, params, tags):
        values = {m.step: m.value for m in metrics}
        self._take("batch", run_id, values, {p.key: p.value for p in params}, {t.key: t.value for t in tags})

    def update_run(self, run_id, status):
        self._take("status", run_id, status)

    def set_terminated(self, run_id, status):
        self._take("end", run_id, status)


@pytest.fixture
def start(monkeypatch):
    monkeypatch.setattr(writer_module.time, "sleep", lambda seconds: None)
    writers = []

    def start(store):
        writers.append(Writer(store))
        return writers[-1]

    yield start
    for writer in writers:
        writer.close()


def test_values_of_a_run_are_written_in_one_request(start):
    store = Store()
    writer = start(store)
    writer.params("run", {"lr": "0.1"})
    for step in range(1, 6):
        writer.metrics("run", {"loss": step / 10}, step=step, time=1.0)
    writer.tags("run", {"a": "old"})
    writer.tags("run", {"a": "new"})
    writer.status("run", "RUNNING")
    writer.status("run", "FINISHED")
    writer.flush()
    losses = {step: step / 10 for step in range(1, 6)}
    assert store.requests == [
        ("batch", "run", losses, {"lr": "0.1"}, {"a": "new"}),
        ("end", "run", "FINISHED"),
    ]


def test_a_paused_run_is_not_terminated(start):
    store = Store()
    writer = start(store)
    writer.status("run", "SCHEDULED")
    writer.flush()
    assert store.requests == [("status", "run", "SCHEDULED")]


def test_large_batches_are_cut_to_what_mlflow_takes(start):
    store = Store()
    writer = start(store)
    for step in range(2500):
        writer.metrics("run", {"loss": 0.0}, step=step, time=1.0)
    writer.params("run", {f"p{i}": "1" for i in range(150)})
    writer.flush()
    batches = [(len(metrics), len(params)) for _, _, metrics, params, _ in store.requests]
    assert all(metrics + params <= 1000 and params <= 100 for metrics, params in batches)
    assert sum(metrics for metrics, _ in batches) == 2500
    assert sum(params for _, params in batches) == 150


def test_a_store_that_is_away_for_a_moment_loses_nothing(start):
    store = Store(refusals=3)
    writer = start(store)
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    writer.status("run", "FINISHED")
    writer.flush()
    assert store.requests == [("batch", "run", {1: 1.0}, {}, {}), ("end", "run", "FINISHED")]


def test_a_store_that_stays_away_is_told_at_every_later_call(start):
    writer = start(Store(refusals=1000))
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    for call in (writer.flush, writer.check, lambda: writer.status("run", "FINISHED")):
        with pytest.raises(StudyError, match="the tracking store cannot be written: gone away"):
            call()


def test_what_the_store_refuses_for_good_is_not_tried_again(start):
    refusal = MlflowException("no such run", error_code=mlflow.exceptions.RESOURCE_DOES_NOT_EXIST)
    store = Store(refusals=1, error=refusal)
    writer = start(store)
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    with pytest.raises(StudyError, match="no such run"):
        writer.flush()
    assert store.requests == []


def test_a_full_buffer_makes_the_training_wait_not_the_memory_grow(start, monkeypatch):
    monkeypatch.setattr(writer_module, "CAPACITY", 100)
    store = Store()
    store.open.clear()
    writer = start(store)
    through = threading.Event()

    def produce():
        for step in range(1000):
            writer.metrics("run", {"loss": 0.0}, step=step, time=1.0)
        through.set()

    thread = threading.Thread(target=produce)
    thread.start()
    assert not through.wait(0.3)
    assert writer._size <= 100
    store.open.set()
    assert through.wait(10)
    thread.join()
    writer.flush()
    assert {step for _, _, metrics, _, _ in store.requests for step in metrics} == set(range(1000))


def test_calls_are_made_in_order_and_bring_their_results(start):
    writer = start(Store())
    made = []
    futures = [writer.call(lambda i=i: made.append(i) or i * 10) for i in range(5)]
    assert [future.result(10) for future in futures] == [0, 10, 20, 30, 40]
    assert made == list(range(5))
    with pytest.raises(ZeroDivisionError):
        writer.call(lambda: 1 / 0).result(10)
    writer.check()  # a failed call is its caller's concern


def test_close_writes_what_is_left(start):
    store = Store()
    writer = start(store)
    writer.tags("run", {"a": "1"})
    writer.close()
    assert store.requests == [("batch", "run", {}, {}, {"a": "1"})]
