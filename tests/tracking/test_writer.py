import threading
import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from mlflow_hpo import StudyError
from mlflow_hpo.tracking import writer as writer_module


def test_values_of_a_run_are_written_in_one_request(start, make_store):
    store = make_store()
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


def test_a_paused_run_is_not_terminated(start, make_store):
    store = make_store()
    writer = start(store)
    writer.status("run", "SCHEDULED")
    writer.flush()
    assert store.requests == [("status", "run", "SCHEDULED")]


def test_large_batches_are_cut_to_what_mlflow_takes(start, make_store):
    store = make_store()
    writer = start(store)
    for step in range(2500):
        writer.metrics("run", {"loss": 0.0}, step=step, time=1.0)
    writer.params("run", {f"p{i}": "1" for i in range(150)})
    writer.flush()
    batches = [(len(metrics), len(params)) for _, _, metrics, params, _ in store.requests]
    assert all(metrics + params <= 1000 and params <= 100 for metrics, params in batches)
    assert sum(metrics for metrics, _ in batches) == 2500
    assert sum(params for _, params in batches) == 150


def test_a_store_that_is_away_for_a_moment_loses_nothing(start, make_store):
    store = make_store(refusals=3)
    writer = start(store)
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    writer.status("run", "FINISHED")
    writer.flush()
    assert store.requests == [("batch", "run", {1: 1.0}, {}, {}), ("end", "run", "FINISHED")]


def test_what_may_pass_or_not_is_tried_some_times_and_then_told(start, make_store):
    refusal = MlflowException("who are you", error_code=mlflow.exceptions.UNAUTHENTICATED)
    store = make_store(refusals=1000, error=refusal)
    writer = start(store, patience=30)
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    for call in (writer.flush, writer.check, lambda: writer.status("run", "FINISHED")):
        with pytest.raises(StudyError, match="the tracking store cannot be written: who are you"):
            call()
    # what was put on the disk in between begins to count anew
    assert writer_module.ATTEMPTS <= store.tries <= 2 * writer_module.ATTEMPTS


def test_a_param_that_a_script_logged_first_stays_as_it_is(store, start):
    run_id = store.create_run("0").info.run_id
    store.log_param(run_id, "lr", "1e-1")
    writer = start(store)
    writer.params(run_id, {"lr": "0.1", "layers": "2"})
    writer.metrics(run_id, {"loss": 1.0}, step=1, time=1.0)
    writer.flush()
    written = store.get_run(run_id).data
    assert written.params == {"lr": "1e-1", "layers": "2"}
    assert written.metrics == {"loss": 1.0}
    assert written.tags["hpo.warning"] == "the training logged the param lr as '1e-1', it was '0.1'"


def test_what_the_store_refuses_for_good_is_not_tried_again(start, make_store):
    refusal = MlflowException("no such run", error_code=mlflow.exceptions.RESOURCE_DOES_NOT_EXIST)
    store = make_store(refusals=1, error=refusal)
    writer = start(store)
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    with pytest.raises(StudyError, match="no such run"):
        writer.flush()
    assert store.requests == []


def test_only_when_memory_and_disk_are_full_the_training_waits(
    start, make_store, monkeypatch, spools, wait_for
):
    monkeypatch.setattr(writer_module, "CAPACITY", 100)
    monkeypatch.setattr("mlflow_hpo.tracking.spool.LARGEST", 20_000)
    store = make_store()
    store.open.clear()
    writer = start(store)
    done, through = [], threading.Event()

    def produce():
        for step in range(3000):
            writer.metrics("run", {"loss": 0.0}, step=step, time=1.0)
            done.append(step)
        through.set()

    thread = threading.Thread(target=produce)
    thread.start()
    wait_for(lambda: len(done) > 300)  # beyond what memory holds
    assert not through.wait(0.3)
    assert writer._backlog.size <= 100
    assert sum(file.stat().st_size for file in spools.glob("*/*")) <= 20_000
    store.open.set()
    assert through.wait(10)
    thread.join()
    writer.flush()
    # what was on its way when the disk took it, too, may come twice: MLflow keeps it once
    assert list(dict.fromkeys(step for _, step, _ in store.points())) == list(range(3000))
    assert not list(spools.glob("*/*"))


def test_calls_are_made_in_order_and_bring_their_results(start, make_store):
    writer = start(make_store())
    made = []
    futures = [writer.call(lambda i=i: made.append(i) or i * 10) for i in range(5)]
    assert [future.result(10) for future in futures] == [0, 10, 20, 30, 40]
    assert made == list(range(5))
    with pytest.raises(ZeroDivisionError):
        writer.call(lambda: 1 / 0).result(10)
    writer.check()  # a failed call is its caller's concern


def test_close_writes_what_is_left(start, make_store):
    store = make_store()
    writer = start(store)
    writer.tags("run", {"a": "1"})
    writer.close()
    assert store.requests == [("batch", "run", {}, {}, {"a": "1"})]


def test_calls_and_new_runs_do_not_wait_for_the_values_of_others(start, make_store):
    store = make_store()
    writer = start(store, threads=2)
    store.open.clear()
    writer.metrics("run", {"loss": 1.0}, step=1, time=1.0)
    assert writer.call(lambda: 7).result(10) == 7
    made = writer.create_run("0", tags={}, run_name="trial-0000")
    store.open.set()
    assert made.result(10).info.run_name == "trial-0000"


def test_with_one_thread_a_new_run_goes_before_what_waits(start, make_store):
    store = make_store()
    store.open.clear()
    writer = start(store, threads=1)
    for number in range(5):
        writer.metrics(f"run{number}", {"loss": 1.0}, step=1, time=1.0)
    thread = threading.Thread(target=writer.flush)
    thread.start()
    made = writer.create_run("0", tags={}, run_name="trial-0000")
    store.open.set()
    made.result(10)
    thread.join()
    assert [request[0] for request in store.requests].index("create") <= 1


def test_the_order_within_a_run_is_kept_by_many_threads(start, make_store):
    store = make_store()
    writer = start(store, threads=8)
    for step in range(200):
        for run in range(10):
            writer.metrics(f"run{run}", {"loss": 1.0}, step=step, time=1.0)
        if step % 20 == 0:
            writer.flush()
    for run in range(10):
        writer.status(f"run{run}", "FINISHED")
    writer.flush()
    for run in range(10):
        mine = [request for request in store.requests if request[1] == f"run{run}"]
        assert [step for request in mine[:-1] for step in request[2]] == list(range(200))
        assert mine[-1] == ("end", f"run{run}", "FINISHED")


def test_who_waits_for_a_run_when_the_store_breaks_is_told(start, make_store):
    store = make_store(1, MlflowException("no", error_code=mlflow.exceptions.INVALID_PARAMETER_VALUE))
    store.open.clear()
    writer = start(store, threads=1)
    writer.tags("run", {"a": "1"})
    while not writer._backlog.flights:
        time.sleep(0.01)
    made = writer.create_run("0", tags={}, run_name="trial-0000")
    store.open.set()
    with pytest.raises(MlflowException, match="no"):
        made.result(10)


def test_calls_that_take_long_together_are_waited_for_as_long_as_they_end(start, make_store):
    writer = start(make_store(), patience=0.6)
    ended = [writer.call(time.sleep, 0.3) for _ in range(4)]
    writer.flush()
    assert all(each.done() for each in ended)
