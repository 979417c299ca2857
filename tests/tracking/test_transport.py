import contextlib
import multiprocessing
import sqlite3
from pathlib import Path

import mlflow
import pytest
from sqlite_writer import RUNS, write

from mlflow_hpo.patience import impatient
from mlflow_hpo.tracking.connect import connect
from mlflow_hpo.tracking.transport import hasten, on_network, own_retries

WRITERS = 8


def test_the_connections_of_sqlite_do_not_wait_for_the_disk(store, tmp_path):
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    store.search_experiments()  # a connection from before
    client = connect()
    seen = []
    look = lambda connection, *_: seen.append(  # noqa: E731
        (
            connection.execute("PRAGMA journal_mode").fetchone()[0],
            connection.execute("PRAGMA synchronous").fetchone()[0],
        )
    )
    event.listen(Engine, "checkout", look)
    try:
        client.search_experiments()
    finally:
        event.remove(Engine, "checkout", look)
    assert set(seen) == {("wal", 1)}


def plan(path):
    """Return how SQLite finds the points of a run's metric."""
    of_one_run = "EXPLAIN QUERY PLAN SELECT * FROM metrics WHERE run_uuid = 'r7' AND key = 'loss'"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [(*_, told)] = connection.execute(of_one_run).fetchall()
    return told


def test_the_points_of_one_run_are_found_without_reading_those_of_all(store, tmp_path):
    path = tmp_path / "mlflow.db"
    points = [("loss", 0.5, step, f"r{run}", step, 0) for run in range(100) for step in range(20)]
    into = "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.executemany(into, points)
        connection.commit()
    assert "(key=?)" in plan(path), "SQLite knows by itself now: _count_points is not needed any more"
    connect()
    assert "(run_uuid=? AND key=?)" in plan(path)


def test_other_databases_of_the_process_are_left_alone(store, tmp_path):
    from sqlalchemy import create_engine

    connect()
    engine = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    engine.dispose()


def test_files_on_network_file_systems_are_left_alone(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/a / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n/dev/b /home/me/disk xfs rw 0 0\n")
    assert on_network(Path("/home/me/mlflow.db"), mounts)
    assert not on_network(Path("/home/me/disk/mlflow.db"), mounts)
    assert not on_network(Path("/data/mlflow.db"), mounts)
    assert not on_network(Path("/data/mlflow.db"), tmp_path / "none")


def test_eight_processes_write_to_one_file(store, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mlflow.store.tracking.sqlalchemy_store", "mlflow_hpo.tracking.transport"]
    )
    results = context.Queue()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    processes = [context.Process(target=write, args=(uri, n, results)) for n in range(WRITERS)]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [""] * WRITERS
    for process in processes:
        process.join()
    runs = store.search_runs(["0"])
    assert len(runs) == WRITERS * RUNS
    assert {run.info.status for run in runs} == {"FINISHED"}
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (WRITERS * RUNS * 20,)
    connection.close()


def test_requests_that_are_tried_again_by_the_writer_fail_at_once(monkeypatch):
    uri = "http://127.0.0.1:9"  # discard: nobody listens
    hasten(uri)
    hasten(uri)  # again changes nothing
    with own_retries(), pytest.raises(mlflow.MlflowException, match="refused"):
        mlflow.MlflowClient(uri).search_experiments()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda self, response=None: None)
    with pytest.raises(mlflow.MlflowException, match="Max retries exceeded"):
        mlflow.MlflowClient(uri).search_experiments()


def test_it_is_so_as_well_where_somebody_else_was_impatient_at_the_time(monkeypatch):
    uri = "http://127.0.0.1:7"  # echo: nobody listens
    with impatient():
        hasten(uri)
    slept = []
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda self, response=None: slept.append(response))
    with own_retries(), pytest.raises(mlflow.MlflowException, match="refused"):
        mlflow.MlflowClient(uri).search_experiments()
    assert not slept


def test_a_changed_mlflow_is_used_as_it_is(monkeypatch):
    monkeypatch.delattr("mlflow.utils.request_utils._get_request_session")
    hasten("http://127.0.0.1:9")


def test_a_second_sqlite_store_of_the_process_is_quick_too(empty_store, store, tmp_path):
    connect()
    second = tmp_path / "second.db"
    second.write_bytes(empty_store.read_bytes())
    hasten(f"sqlite:///{second}")
    mlflow.MlflowClient(f"sqlite:///{second}").search_experiments()
    with sqlite3.connect(second) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
