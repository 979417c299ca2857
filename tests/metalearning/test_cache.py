"""What is read from MLflow is read once."""

import json
import sqlite3

import pytest

from mlflow_hpo import History, SearchSpace
from mlflow_hpo.metalearning.cache import Cache
from mlflow_hpo.tracking.history import HISTORY, WRITTEN, written_history

SPACE = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})


@pytest.fixture
def cache(tmp_path):
    with Cache("http://mlflow.example", tmp_path) as cache:
        cache.put("run", "ended", "text")
    return Cache("http://mlflow.example", tmp_path)


def study(store, number, *, trials=2):
    """Write down a study as studies do, without running it."""
    experiment = store.get_experiment_by_name("test")
    place = experiment.experiment_id if experiment else store.create_experiment("test")
    tags = {"hpo.kind": "study", "hpo.task": f"task {number}", "hpo.metric": "loss", "hpo.mode": "min"}
    run = store.create_run(place, tags=tags)
    write(store, run.info.run_id, number, trials)
    store.set_terminated(run.info.run_id)
    return run.info.run_id


def write(store, run_id, number, trials):
    told = [
        {
            "trial": trial,
            "run_id": f"{number}-{trial}",
            "params": {"x": str(0.1 * trial)},
            "curve": [(1, number)],
            "failed": False,
        }
        for trial in range(trials)
    ]
    store.log_text(run_id, written_history(told), HISTORY)
    store.log_text(run_id, json.dumps({}), "data.json")
    store.set_tag(run_id, WRITTEN, str(trials))


def mined():
    return History.from_mlflow(["test"], metric="loss", mode="min", space=SPACE)


def spoil(store, run_id):
    """Take away what a study wrote down: only who remembers it can tell."""
    folder = store.get_run(run_id).info.artifact_uri.removeprefix("file://")
    for path in (HISTORY, "data.json"):
        with open(f"{folder}/{path}", "w") as file:
            file.write("gone")


def test_many_studies_are_read_in_their_order_and_only_once(store):
    run_ids = [study(store, number) for number in range(30)]
    first = mined()
    for run_id in run_ids:
        spoil(store, run_id)
    run_ids.append(study(store, 30))

    again = mined()

    assert first.studies == tuple(reversed(run_ids[:-1]))
    assert again.studies == tuple(reversed(run_ids))
    assert [task.name for task in again.tasks] == [f"task {number} in test" for number in range(30, -1, -1)]
    assert again.tasks[1:] == first.tasks
    assert not again.skipped


def test_a_study_that_goes_on_is_read_again(store):
    run_id = study(store, 0, trials=2)
    assert mined().trials == 2
    write(store, run_id, 0, 3)
    store.set_terminated(run_id)
    assert mined().trials == 3


def test_what_is_damaged_is_not_kept(store):
    run_id = study(store, 0)
    spoil(store, run_id)
    assert mined().skipped == {"studies whose history is damaged": 1}
    write(store, run_id, 0, 2)
    assert mined().trials == 2


def test_what_was_kept_and_is_damaged_now_is_read_again(store, tmp_path):
    study(store, 0)
    assert mined().trials == 2
    [file] = (tmp_path / "cache").glob("*.db")
    for text in ("gone", "[]", '{"facts": {}, "trials": []}'):
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE texts SET text = ?", (text,))
        assert mined().trials == 2


def test_a_deleted_study_is_not_remembered(store):
    kept, deleted = study(store, 0), study(store, 1)
    assert len(mined().studies) == 2
    store.delete_run(deleted)
    assert mined().studies == (kept,)


def test_without_a_folder_nothing_is_kept(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HPO_CACHE", "")
    run_id = study(store, 0)
    assert mined().trials == 2
    spoil(store, run_id)
    assert not mined()


def test_each_store_has_a_file_of_its_own_that_does_not_name_it(cache, tmp_path):
    with Cache("http://me:secret@other.example", tmp_path) as other:
        assert other.get("run", "ended") is None
        other.put("run", "ended", "other")
    with cache:
        assert cache.get("run", "ended") == "text"
    files = list(tmp_path.glob("*.db"))
    assert len(files) == 2
    assert not any(b"secret" in file.read_bytes() or "example" in file.name for file in files)


def test_a_damaged_file_begins_anew(cache, tmp_path):
    [file] = tmp_path.glob("*.db")
    file.write_bytes(b"no database" * 100)
    with cache:
        assert cache.get("run", "ended") is None
        cache.put("run", "ended", "again")
    with cache:
        assert cache.get("run", "ended") == "again"


@pytest.fixture
def damaged(tmp_path):
    """A cache of many texts whose file has lost all pages but the first two."""
    with Cache("http://mlflow.example", tmp_path) as cache:
        for number in range(500):
            cache.put(f"run {number}", "ended", "text" * 50)
    [file] = tmp_path.glob("*.db")
    size = file.stat().st_size
    assert size > 10 * 4096
    with file.open("r+b") as opened:
        opened.seek(2 * 4096)
        opened.write(bytes(size - 2 * 4096))
    return Cache("http://mlflow.example", tmp_path)


def test_a_file_that_is_found_damaged_while_it_is_read_begins_anew(damaged):
    with damaged:
        assert [damaged.get(f"run {number}", "ended") for number in range(500)] == [None] * 500
        damaged.put("run", "ended", "new")
    with damaged:
        assert damaged.get("run", "ended") == "new"
        assert damaged.get("run 0", "ended") is None


def test_a_file_that_is_found_damaged_while_it_is_written_begins_anew(damaged):
    with damaged:
        for number in range(500):
            damaged.put(f"run {number}", "ended", "new")
    with damaged:
        assert [damaged.get(f"run {number}", "ended") for number in range(500)] == ["new"] * 500


def test_what_replaced_a_damaged_file_already_is_kept(damaged, tmp_path):
    other = Cache("http://mlflow.example", tmp_path)
    with damaged:
        with other:
            other.get("run 7", "ended")
            other.put("run 7", "ended", "of another process")
        assert damaged.get("run 8", "ended") is None
        assert damaged.get("run 7", "ended") == "of another process"


def test_a_file_that_grew_too_large_begins_anew(cache, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.metalearning.cache._LARGEST", 10)
    with cache:
        assert cache.get("run", "ended") is None


def test_what_others_wrote_into_the_file_is_not_believed(cache, tmp_path):
    [file] = tmp_path.glob("*.db")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE texts SET text = x'00ff'")
    with cache:
        assert cache.get("run", "ended") is None


def test_a_locked_file_and_a_folder_that_cannot_be_made_are_no_matter(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("mlflow_hpo.metalearning.cache._PATIENCE", 0.01)
    [file] = tmp_path.glob("*.db")
    with sqlite3.connect(file) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with cache:
            assert cache.get("run", "ended") is None
            cache.put("run", "later", "new")
    with cache:
        assert cache.get("run", "ended") == "text"
    (tmp_path / "file").touch()
    with Cache("", tmp_path / "file" / "folder") as nowhere:
        assert nowhere.get("run", "ended") is None
        nowhere.put("run", "ended", "text")
