"""Plain runs are listed from several spans of time, and remembered as long as what is known is true."""

import time

import pytest
import trainings
from mlflow.tracking import MlflowClient
from scripted import ROUND, logged

from mlflow_hpo import History, SearchSpace
from mlflow_hpo.metalearning import cache as caches
from mlflow_hpo.metalearning import plain_listing, plain_runs

SPACE = SearchSpace(trainings.SPACE)


def mined(*, mode="min", sources=("plain",)):
    return History.from_mlflow(sources, metric="loss", mode=mode, space=SPACE)


def runs(history):
    return {
        trial.run_id: (trial.config, trial.curve, trial.failed)
        for task in history.tasks
        for trial in task.trials
    }


@pytest.fixture
def listed(monkeypatch):
    """How many runs each request for a list brought, and which curves were asked for."""
    brought, curves = [], []
    search, ask = MlflowClient.search_runs, MlflowClient.get_metric_history

    def searching(self, *args, **kwargs):
        page = search(self, *args, **kwargs)
        if "hpo.kind` = 'study'" not in args[1]:
            brought.append(len(page))
        return page

    def asking(self, run_id, key):
        curves.append(run_id)
        return ask(self, run_id, key)

    monkeypatch.setattr(MlflowClient, "search_runs", searching)
    monkeypatch.setattr(MlflowClient, "get_metric_history", asking)
    return brought, curves


@pytest.fixture(params=[1, 2])
def crowded(request, monkeypatch):
    """Let one or two runs be as many as are always listed, as if there were hundreds besides."""
    monkeypatch.setattr(plain_listing, "_LATEST", request.param)
    return request.param


@pytest.fixture
def later(monkeypatch):
    """Let hours pass."""

    def pass_by(hours):
        now = time.time
        monkeypatch.setattr(plain_listing.time, "time", lambda: now() + 3600 * hours)

    return pass_by


@pytest.mark.parametrize("page", [1, 2, 3, 5, 40])
def test_no_run_is_lost_between_pages_and_spans(store, monkeypatch, page):
    monkeypatch.setattr(plain_listing, "_PAGE", page)
    experiment = store.create_experiment("plain")
    create = store.create_run
    started = iter([1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7])  # many began together
    monkeypatch.setattr(store, "create_run", lambda *_, tags: create(experiment, start_time=next(started)))
    run_ids = [logged(store) for _ in range(19)]

    assert sorted(runs(mined())) == sorted(run_ids)


def test_what_was_listed_is_not_asked_for_again(store, crowded, listed, later):
    brought, curves = listed
    old = [logged(store, [(1, 9.0), (2, number)]) for number in range(6)]
    old.append(logged(store, params={"x": 0.5}))  # left out, and told of the next time, too
    later(2)
    first = mined()
    assert sorted(curves) == sorted(old[:6])
    assert brought == [7]

    later(2)
    brought.clear()
    curves.clear()
    second = mined()

    # the latest; nothing new; of the six that are used the others were asked whether they are as they were
    assert brought == [crowded, 0, 7 - crowded]
    assert curves == []
    assert runs(second) == runs(first)
    assert (second.runs, second.skipped) == (first.runs, first.skipped)


def test_what_ended_since_is_seen(store, crowded, listed, later):
    _, curves = listed
    old = logged(store)
    running = logged(store, [(1, 0.4), (2, 0.3)], status="RUNNING")
    logged(store, status="RUNNING")
    later(2)
    assert list(runs(mined())) == [old]

    later(2)
    store.set_terminated(running, end_time=int(1000 * time.time()))
    new = [logged(store, status="RUNNING") for _ in range(3)]
    of_first_listing = time.time() - 2 * 3600
    for run_id in new[:2]:
        store.set_terminated(
            run_id, end_time=int(1000 * (of_first_listing - 1800))
        )  # its machine's clock is late
    store.update_run(new[2], "FINISHED")  # which tells no time

    assert sorted(runs(mined())) == sorted([old, running, *new])
    assert sorted(curves) == sorted([old, running, *new])


def test_of_few_runs_all_is_seen_at_once(store, listed, later):
    brought, _ = listed
    deleted, kept = logged(store), logged(store)
    running = logged(store, status="RUNNING")
    without = logged(store, values=())
    later(2)
    assert sorted(runs(mined())) == sorted([deleted, kept])
    store.delete_run(deleted)
    later(2)
    assert list(runs(mined())) == [kept]

    store.restore_run(deleted)
    store.update_run(running, "FINISHED")  # which tells no time
    store.log_metric(without, "loss", 0.1, step=1)
    later(2)
    brought.clear()

    assert sorted(runs(mined())) == sorted([deleted, kept, running, without])
    assert brought == [4]


def test_a_run_that_went_on_is_read_again(store, later):
    run_id = logged(store, [(1, 0.5), (2, 0.4)])
    assert runs(mined())[run_id][1] == ((1, 0.5), (2, 0.4))

    later(2)
    store.update_run(run_id, "RUNNING")
    store.log_metric(run_id, "loss", 0.3, step=3)
    store.set_terminated(run_id)

    assert runs(mined())[run_id][1] == ((1, 0.5), (2, 0.4), (3, 0.3))


def test_deleted_runs_make_room_for_others(store, monkeypatch, later):
    monkeypatch.setattr(plain_runs, "_MOST_OF_TASK", 4)
    run_ids = [logged(store, [(1, float(number))]) for number in range(8)]
    assert set(run_ids[:2]) < set(runs(mined()))

    later(2)
    for run_id in run_ids[:3]:
        store.delete_run(run_id)
    store.set_tag(run_ids[7], "hpo.kind", "trial")  # no plain run any more
    found = mined()

    assert sorted(runs(found)) == sorted(run_ids[3:7])
    monkeypatch.setenv(caches.FOLDER, "")
    assert (runs(mined()), mined().skipped) == (runs(found), found.skipped)


def test_after_a_day_all_is_asked_for(store, crowded, later):
    imported = logged(store, status="RUNNING")
    latest = [logged(store) for _ in range(3)]
    later(2)
    mined()
    store.set_terminated(imported, end_time=5)
    later(2)
    assert sorted(runs(mined())) == sorted(latest)

    later(24)

    assert sorted(runs(mined())) == sorted([imported, *latest])


def old_runs(store, number, experiment):
    """Runs that began and ended long ago."""
    where = store.get_experiment_by_name(experiment).experiment_id
    found = []
    for at in range(number):
        run_id = store.create_run(where, start_time=1000 + at).info.run_id
        for name, value in ROUND.items():
            store.log_param(run_id, name, value)
        store.log_metric(run_id, "loss", 0.5, step=1)
        store.set_terminated(run_id, end_time=2000)
        found.append(run_id)
    return found


@pytest.mark.parametrize("latest", [0, 5])  # which are the same in either store
def test_another_store_is_not_taken_for_the_one_that_is_known(store, crowded, later, latest):
    """As when a port is forwarded to another server: its experiments have the ids of the first one's."""
    first = [logged(store) for _ in range(3)]
    same = [logged(store, experiment="other") for _ in range(latest)]
    store.get_experiment_by_name("other") or store.create_experiment("other")
    both = ("plain", "other")
    assert sorted(runs(mined(sources=both))) == sorted(first + same)

    for run_id in first:
        store.delete_run(run_id)
    second = old_runs(store, 5, "plain")
    later(2)

    assert sorted(runs(mined(sources=both))) == sorted(second + same)


def test_an_experiment_of_another_name_is_listed_whole(store, crowded, later):
    known = [logged(store) for _ in range(3)]
    mined()
    hidden = old_runs(store, 1, "plain")
    later(2)
    assert sorted(runs(mined())) == sorted(known)

    store.rename_experiment(store.get_experiment_by_name("plain").experiment_id, "others")

    assert sorted(runs(mined(sources=("others",)))) == sorted(known + hidden)


def test_another_metric_or_other_params_are_another_listing(store):
    run_id = logged(store)
    mined()
    store.log_metric(run_id, "accuracy", 0.9, step=1)
    other = SearchSpace({"x": trainings.SPACE["x"]})

    accuracy = History.from_mlflow(["plain"], metric="accuracy", mode="max", space=SPACE)
    narrow = History.from_mlflow(["plain"], metric="loss", mode="min", space=other)

    assert runs(accuracy)[run_id][1] == ((1, 0.9),)
    assert runs(narrow)[run_id][0] == {"x": ROUND["x"]}


def test_a_new_experiment_is_read_beside_those_that_are_known(store, listed, later):
    brought, _ = listed
    known = logged(store)
    later(2)
    mined()
    later(2)
    brought.clear()
    new = logged(store, experiment="new")

    assert sorted(runs(mined(sources=("plain", "new")))) == sorted([known, new])
    assert brought == [1, 1]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"listed": 1, "asked": 2, "runs": [["a"]]}'])
def test_a_damaged_listing_is_made_anew(store, monkeypatch, text):
    run_id = logged(store, [(1, 0.5), (2, 0.4)])
    before = runs(mined())
    monkeypatch.setattr(caches.Cache, "get", lambda *_: text)
    assert runs(mined()) == before
    assert list(before) == [run_id]
