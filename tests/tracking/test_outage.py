"""A tracking store that goes away while a study is at work, and comes back or does not."""

import json
import os
import shutil
import stat
import sys
import threading
import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException, RestException

from mlflow_hpo import StudyError
from mlflow_hpo.tracking.backlog import Backlog
from mlflow_hpo.tracking.batch import Batch
from mlflow_hpo.tracking.outage import LONGEST_PAUSE, is_final, is_outage, pause
from mlflow_hpo.tracking.spool import LeftSpool, Spool
from mlflow_hpo.tracking.sync import sync
from mlflow_hpo.tracking.writer import Writer

FOREVER = 10**9


def fill(writer, steps, begin=0):
    for step in range(begin, begin + steps):
        writer.metrics("run", {"loss": step / 10}, step=step, time=step)


def lines(folder):
    return [line for file in sorted(folder.glob("*/*.jsonl")) for line in file.read_bytes().splitlines()]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        TimeoutError("timed out"),
        MlflowException("API request failed"),
        RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "429"}),
        RestException({"error_code": "INTERNAL_ERROR", "message": "500"}),
        MlflowException("locked", error_code=mlflow.exceptions.TEMPORARILY_UNAVAILABLE),
    ],
)
def test_an_outage_loses_nothing_and_is_told(start, make_store, spools, wait_for, error):
    told = []
    store = make_store(FOREVER, error)
    writer = start(store, study="parent", on_outage=told.append, patience=30)
    writer.params("run", {"lr": "0.1"})
    fill(writer, 10)
    wait_for(lambda: writer.away is not None and told)
    wait_for(lambda: len(lines(spools)) > 1)
    fill(writer, 10, begin=10)
    writer.status("run", "KILLED")
    writer.status("run", "FINISHED")
    (file,) = (spools / "parent").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store.refusals = 0
    writer.flush()
    assert store.points() == [("run", step, step / 10) for step in range(20)]
    assert store.requests[-1] == ("end", "run", "FINISHED")
    wait_for(lambda: len(told) == 2)
    assert told[1] is None
    assert writer.away is None
    assert not file.exists()


def test_no_number_of_failures_is_too_many(start, make_store):
    store = make_store(200)
    writer = start(store, patience=60)
    fill(writer, 1)
    writer.flush()
    assert store.tries == 201


def test_a_batch_that_was_half_written_goes_on_where_it_broke(start, make_store, monkeypatch):
    # else it is in the spool, too, and comes twice
    monkeypatch.setattr("mlflow_hpo.tracking.writer.AWAY", 60)
    store = make_store()
    writer = start(store, patience=30)
    store.open.clear()
    fill(writer, 2500)
    take = store._take

    def second_fails(*request):
        if len(store.requests) == 1:
            store._take = take
            raise ConnectionError("reset")
        take(*request)

    store._take = second_fails
    store.open.set()
    writer.flush()
    assert store.points() == [("run", step, step / 10) for step in range(2500)]


def test_one_run_that_fails_does_not_hold_up_the_others(start, make_store, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.tracking.writer.REFUSALS", 5)
    monkeypatch.setattr("mlflow_hpo.tracking.backlog.INTERVAL", 0.01)
    store = make_store()
    take = store._take

    def poisoned(*request):
        if request[1] == "poison":
            raise RestException({"error_code": "INTERNAL_ERROR", "message": "a column is too short"})
        take(*request)

    store._take = poisoned
    writer = start(store, patience=60)
    writer.tags("poison", {"a": "1"})
    for step in range(100):
        writer.metrics(f"run{step}", {"loss": 1.0}, step=step, time=1.0)
    with pytest.raises(StudyError, match="too short"):
        while True:
            writer.metrics("other", {"loss": 1.0}, step=1, time=1.0)
            time.sleep(0.01)
    assert {run for run, _, _ in store.points()} >= {f"run{step}" for step in range(100)}


def test_a_run_is_created_once_even_if_the_answer_is_lost(start, make_store):
    store = make_store(3)
    store.lose_answers = 1
    writer = start(store)
    tags = {"mlflow.parentRunId": "parent", "hpo.trial": "3"}
    made = writer.create_run("0", tags=tags, run_name="trial-0003")
    assert made.result(10).info.run_id == "run0"
    assert len(store.runs) == 1


def test_a_run_that_cannot_be_created_breaks_nothing_else(start, make_store):
    store = make_store(1, MlflowException("deleted", error_code=mlflow.exceptions.INVALID_PARAMETER_VALUE))
    writer = start(store)
    with pytest.raises(MlflowException, match="deleted"):
        writer.create_run("0", tags={}, run_name="x").result(10)
    writer.check()


def test_close_does_not_wait_for_ever_and_says_what_to_do(start, make_store, spools, caplog):
    store = make_store(FOREVER)
    writer = start(store, study="parent")
    fill(writer, 5)
    made = writer.create_run("0", tags={}, run_name="x")
    with pytest.raises(StudyError, match="is away; what it lacks is kept in .*`mlflow-hpo sync`"):
        writer.flush()
    writer.close()
    writer.close()
    assert "`mlflow-hpo sync`" in caplog.text
    with pytest.raises((StudyError, ConnectionError)):
        made.result(0)
    assert not writer.failed
    store.refusals = 0
    done = sync(client=store)
    assert (done.values, done.runs, done.files) == (5, {"run"}, 1)
    assert store.points() == [("run", step, step / 10) for step in range(5)]
    assert not spools.exists() or not list(spools.iterdir())
    assert sync(client=store).files == 0


def test_sync_leaves_alone_what_is_in_use_or_for_another_store(start, make_store, spools, wait_for):
    store = make_store(FOREVER)
    writer = start(store)
    fill(writer, 5)
    wait_for(lambda: lines(spools))
    other = Spool(spools / "other", store="http://elsewhere", study="other")
    other.append([("run", Batch([("loss", 1.0, 1, 1)]))])
    other.close()
    (spools / "other" / "20260101T000000-1-0123abcd.jsonl").symlink_to("/etc/passwd")
    (spools / "other" / "20260101T000000-1-0123abce.jsonl").write_text("what?\n")
    before = lines(spools)
    done = sync(client=make_store())
    assert (done.in_use, done.elsewhere, done.files) == (1, {"http://elsewhere": 1}, 0)
    assert lines(spools) == before


CRASH = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from conftest import Store
from mlflow_hpo.tracking.writer import Writer
writer = Writer(Store(10**9), study="parent")
for step in range(100):
    writer.metrics("run", {"loss": float("nan") if step == 7 else step / 10}, step=step, time=step)
writer.tags("run", {"a": "ü \\n"})
writer.status("run", "FINISHED")
while writer._backlog.size or not writer._backlog.spool.path:
    time.sleep(0.05)
print("kept", flush=True)
time.sleep(60)
"""


def test_what_a_killed_driver_left_is_written_by_sync(
    start_process, make_store, spools, tests_folder, wait_for
):
    process = start_process(sys.executable, "-c", CRASH, tests_folder / "tracking")
    while process.stdout.readline() not in ("kept\n", ""):
        pass
    assert sync(client=make_store()).in_use == 1
    process.kill()
    process.wait()
    (file,) = (spools / "parent").iterdir()
    with file.open("ab") as torn:
        torn.write(b'{"run":"run","points":[["loss",1.0,')
    store = make_store(2)
    done = sync(client=store)
    assert done.broken == 0
    assert [step for _, step, _ in store.points()] == list(range(100))
    assert store.requests[-1] == ("end", "run", "FINISHED")
    assert not file.exists()


def test_lines_that_are_not_ours_are_counted_and_skipped(start, make_store, spools):
    store = make_store(FOREVER)
    writer = start(store, patience=0.0)
    fill(writer, 3)
    writer.close()
    (file,) = spools.glob("*/*")
    for line in (
        {"run": "../../x", "tags": {"a": "b"}},
        {"run": "run", "tags": {"a": {"b": 1}}},
        {"run": "run", "status": "DELETED"},
        {"run": "run", "points": [["loss", "x", 1, 1]]},
        ["run"],
    ):
        file.write_bytes(file.read_bytes() + json.dumps(line).encode() + b"\n")
    store.refusals = 0
    done = sync(client=store)
    assert (done.broken, done.values) == (5, 3)


def test_sync_keeps_what_a_store_that_is_away_does_not_take(start, make_store, spools, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.tracking.sync.pause", lambda failures: 0.0)
    store = make_store(FOREVER)
    writer = start(store, patience=0.0)
    fill(writer, 3)
    writer.close()
    with pytest.raises(StudyError, match="gone away"):
        sync(client=store)
    assert len(lines(spools)) == 2


def test_sync_goes_on_after_a_run_that_is_gone(start, make_store):
    store = make_store(FOREVER)
    writer = start(store, patience=0.0)
    for run in ("a", "b"):
        writer.metrics(run, {"loss": 1.0}, step=1, time=1.0)
        writer.status(run, "FINISHED")
    writer.close()
    store.refusals = 1
    store.error = MlflowException("no run a", error_code=mlflow.exceptions.RESOURCE_DOES_NOT_EXIST)
    done = sync(client=store)
    assert done.refused == {"a": "no run a"}
    assert done.runs == {"b"}


def test_a_disk_that_cannot_be_used_leaves_the_memory(start, make_store, tmp_path, monkeypatch, wait_for):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_HPO_SPOOL", str(tmp_path / "file"))
    store = make_store(FOREVER)
    writer = start(store)
    fill(writer, 10)
    wait_for(lambda: writer.away is not None)
    store.refusals = 0
    writer.flush()
    assert len(store.points()) == 10


def test_what_the_store_has_of_a_spool_is_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.tracking.backlog.READ", 3)
    spool = Spool(tmp_path, store="", study="")
    backlog = Backlog(spool, capacity=100)
    for step in range(4):
        for run in ("a", "b"):
            backlog.add(run, Batch([("loss", 1.0, 1, step)]))
        assert backlog.spill()
    path = spool.path

    def left():
        copy = shutil.copy(path, tmp_path / "copy")  # the other one is locked
        with LeftSpool(copy) as spool:
            return [
                (run, point[3])
                for batches in spool.chunks(1)
                for run, batch in batches.items()
                for point in batch.points
            ]

    everything = [(run, step) for step in range(4) for run in ("a", "b")]
    first, _ = backlog.take(True)
    second, _ = backlog.take(True)
    assert (first, second) == ("a", "b")
    backlog.done("a")
    assert left() == everything  # it was read together with some of b
    backlog.done("b")
    assert left() == everything[3:]
    backlog.back(backlog.take(True)[0])
    assert left() == everything[3:]
    while (work := backlog.take(True)) is not None:
        backlog.done(work[0])
    assert not path.exists()


def test_half_a_line_that_the_disk_had_no_room_for_is_taken_back(tmp_path, monkeypatch):
    spool = Spool(tmp_path, store="", study="")
    assert spool.append([("run", Batch([("loss", 1.0, 1, 1)]))])
    size = spool.path.stat().st_size
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        spool.append([("run", Batch([("loss", 2.0, 1, 2)]))])
    monkeypatch.setattr(os, "fsync", fsync)
    assert spool.path.stat().st_size == size
    assert spool.append([("run", Batch([("loss", 3.0, 1, 3)]))])
    assert [value for _, value, _, _ in spool.read(100)["run"].points] == [1.0, 3.0]
    spool.remove()


def test_values_that_come_while_the_spool_is_written_come_after_it(start, make_store, spools, wait_for):
    store = make_store(FOREVER)
    writer = start(store, threads=4, patience=10)
    stop = threading.Event()
    count = [0]

    def produce():
        while not stop.is_set():
            writer.metrics("run", {"loss": 1.0}, step=count[0], time=1.0)
            writer.tags("run", {"last": str(count[0])})
            count[0] += 1
            stop.wait(0.0005)

    thread = threading.Thread(target=produce)
    thread.start()
    for _ in range(3):
        wait_for(lambda: len(lines(spools)) > 3)
        store.refusals = 0
        wait_for(lambda: not lines(spools))
        store.refusals = FOREVER
    stop.set()
    thread.join()
    store.refusals = 0
    writer.flush()
    steps = [step for _, step, _ in store.points()]
    assert set(steps) == set(range(count[0]))
    tags = [int(request[4]["last"]) for request in store.requests if request[4]]
    assert tags[-1] == count[0] - 1


def test_errors_are_told_apart():
    assert is_final(MlflowException("x", error_code=mlflow.exceptions.INVALID_PARAMETER_VALUE))
    assert not is_outage(MlflowException("x", error_code=mlflow.exceptions.UNAUTHENTICATED))
    assert not is_outage(TypeError())
    assert is_outage(MlflowException("x", error_code=mlflow.exceptions.RESOURCE_EXHAUSTED))


def test_pauses_grow_to_a_bound_and_differ():
    pauses = [pause(20) for _ in range(200)]
    assert max(pauses) <= LONGEST_PAUSE
    assert max(pauses) > LONGEST_PAUSE * 0.8
    assert min(pauses) < LONGEST_PAUSE * 0.2
    assert all(pause(1) <= 0.5 for _ in range(100))


def test_a_writer_of_a_store_that_hangs_says_so(start, make_store, monkeypatch, spools, wait_for):
    monkeypatch.setattr("mlflow_hpo.tracking.writer.HUNG", 0.2)
    store = make_store()
    store.open.clear()
    writer = start(store, patience=60)
    fill(writer, 5)
    wait_for(lambda: writer.away is not None)
    assert lines(spools)
    store.open.set()
    writer.flush()
    assert set(store.points()) == {("run", step, step / 10) for step in range(5)}
    wait_for(lambda: writer.away is None)


def test_a_writer_without_a_study_works(make_store):
    writer = Writer(make_store())
    writer.close()


@pytest.mark.parametrize("written", [None, [], "none", -1, True, 1.5])
def test_a_spool_whose_first_line_is_damaged_is_told_to_be_none(tmp_path, written):
    file = tmp_path / "spool.jsonl"
    file.write_text(json.dumps({"schema": 1, "pid": 1, "written": written}) + "\n")
    with pytest.raises(ValueError, match="written must be a whole number"):
        LeftSpool(file)
