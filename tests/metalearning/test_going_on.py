"""Studies that began with a history, and go on: with the same, whatever became of its sources."""

import gzip
import json
import shutil
from functools import partial
from pathlib import Path

import mlflow
import pytest
import trainings
from scripted import logged
from small_studies import searched

from mlflow_hpo import History, SearchSpace, Study, StudyError
from mlflow_hpo.metalearning import kept
from mlflow_hpo.metalearning.kept import KEPT, digest, read_kept
from mlflow_hpo.tracking.recovery import read_recording

SPACE = SearchSpace(trainings.SPACE)


search = partial(searched, max_resource=3, trials=8, seed=1)


def go_on(study, **keys):
    resumed = Study(trainings.quick, resume=study.run_id, **keys)
    resumed.run()
    return resumed


def configs(study):
    return [record.config for record in study.optimizer.trials.values()]


def known(study):
    """The digest of the history that a study has."""
    return digest(study.warm_start.history)


def recorded(study):
    """The digest that is recorded of a study."""
    return json.loads(mlflow.artifacts.load_text(f"runs:/{study.run_id}/warm_start.json"))["sha256"]


def folder_of(store, study):
    return Path(store.get_run(study.run_id).info.artifact_uri.removeprefix("file://"))


def forget_the_history(store, study):
    """Leave a study as earlier versions left it."""
    (folder_of(store, study) / KEPT).unlink()


def four_plain_runs(store):
    return [logged(store, [(1, 0.5), (3, 0.2)], {"x": at / 10, "kind": "round"}) for at in range(4)]


def test_a_study_goes_on_with_the_history_that_it_began_with_where_a_source_goes_on(store):
    source = search(experiment="source", trials=6)
    study = search(experiment="study", warm_start=["source"], seed=3)
    go_on(source, trials=40)

    resumed = go_on(study, trials=16)

    assert known(resumed) == recorded(study) == known(study)
    assert resumed.warm_start.entries == study.warm_start.entries
    assert str(resumed.warm_start) == str(study.warm_start) == "6 trials on 1 task in source say what to try"
    assert configs(resumed)[:8] == configs(study)
    assert "warm_start" not in json.loads(store.get_run(study.run_id).data.tags["hpo.changed"])


def test_a_study_goes_on_where_its_sources_are_gone(store):
    sources = [search(experiment=f"source-{number}", seed=number) for number in range(3)]
    study = search(experiment="study", warm_start="auto", seed=3)
    for source in sources:
        shutil.rmtree(folder_of(store, source))
        store.delete_run(source.run_id)
    shutil.rmtree("cache")  # as on another machine

    resumed = go_on(study, trials=12)

    assert known(resumed) == recorded(study)
    assert len(resumed.optimizer.trials) == 12


def test_a_study_goes_on_where_a_source_runs_again(store):
    run_ids = four_plain_runs(store)
    study = search(experiment="study", warm_start=["plain"])
    store.update_run(run_ids[0], status="RUNNING")

    resumed = go_on(study, trials=12)

    assert known(resumed) == recorded(study)
    assert resumed.warm_start.history.runs == study.warm_start.history.runs


def test_that_the_user_names_another_history_is_told(store, caplog):
    caplog.set_level("INFO")
    search(experiment="source")
    study = search(experiment="study", warm_start=["source"])

    resumed = go_on(study, trials=12, warm_start=["elsewhere"])

    assert known(resumed) == recorded(study)
    assert "warm_start: the study keeps the history that it began with" in caplog.text

    caplog.clear()
    Study(trainings.quick, resume=study.run_id, **read_recording(study.run_id).keys).run()
    assert "keeps the history" not in caplog.text, "its own keys are no others"


def test_what_earlier_versions_did_not_keep_is_read_again_and_kept(store, caplog):
    caplog.set_level("INFO")
    search(experiment="source")
    study = search(experiment="study", warm_start=["source"])
    forget_the_history(store, study)

    resumed = go_on(study, trials=12)

    assert known(resumed) == recorded(study)
    assert "no longer" not in caplog.text
    shutil.rmtree("cache")
    store.delete_experiment(store.get_experiment_by_name("source").experiment_id)
    assert known(go_on(study, trials=16)) == recorded(study)


def test_what_earlier_versions_did_not_keep_and_is_gone_is_told(store, caplog):
    caplog.set_level("INFO")
    run_ids = four_plain_runs(store)
    study = search(experiment="study", warm_start=["plain"])
    forget_the_history(store, study)
    store.update_run(run_ids[0], status="RUNNING")

    resumed = go_on(study, trials=12)

    assert resumed.warm_start.history.trials == 3
    assert caplog.text.count(
        "warm start: its sources no longer hold what the study began with, 1 of them gone; "
        "it goes on with 3 trials on 1 task in plain say what to try"
    ) == 1  # fmt: skip
    assert len(resumed.optimizer.trials) == 12
    assert configs(resumed)[:8] == configs(study)
    store.update_run(run_ids[1], status="RUNNING")
    assert known(go_on(study, trials=14)) == known(resumed)


def test_an_earlier_version_whose_source_lost_its_artifacts_goes_on(store, caplog):
    caplog.set_level("INFO")
    source = search(experiment="source")
    study = search(experiment="study", warm_start=["source"])
    forget_the_history(store, study)
    shutil.rmtree(folder_of(store, source))
    shutil.rmtree("cache")

    resumed = go_on(study, trials=12)

    assert not resumed.warm_start.history
    assert "no longer hold what the study began with" in caplog.text
    assert "1 studies whose history cannot be read" in caplog.text


def damaged(content):
    """What may be found instead of a history."""
    plain = json.loads(gzip.decompress(content))
    yield b""
    yield b"{not gzip"
    yield content[: len(content) // 2]
    yield gzip.compress(b"{not json")
    yield gzip.compress(b"[" * 200_000)
    yield gzip.compress(b"\xff\xfe")
    yield gzip.compress(b"[]")
    yield gzip.compress(b'{"schema": 1}')
    yield gzip.compress(json.dumps(plain | {"schema": 2}).encode())
    yield gzip.compress(json.dumps(plain | {"tasks": []}).encode())
    yield gzip.compress(json.dumps(plain | {"tasks": [None]}).encode())
    yield gzip.compress(json.dumps(plain | {"left_out": {"x": "many"}}).encode())
    yield gzip.compress(json.dumps(plain | {"studies": "all"}).encode())
    plain["tasks"][0]["trials"][0]["config"]["x"] = "__import__('os')"
    yield gzip.compress(json.dumps(plain).encode())


@pytest.fixture
def history():
    records = [
        {"task": "digits", "features": {"rows": 3.3}, "run_id": "a", "curve": [[1, 0.1 + 0.2], [3, 1e-300]],
         "config": {"x": 1 / 3, "kind": "round"}},
        {"task": "digits", "run_id": "b", "curve": [], "failed": True,
         "config": {"x": 1, "kind": "flat", "slope": 0.5}},
        {"task": "wine\n\ud800", "curve": [[9, 2.0]], "config": {"x": -1.0, "kind": "round"}},
    ]  # fmt: skip
    read = History.from_records(records, mode="min").within(SPACE)
    return History(read.tasks, mode="min", skipped={"of another kind": 3}, studies=["s"], runs=["r"])


@pytest.mark.parametrize("sources", [None, ("flats", "runs:/0123")])
def test_what_is_kept_is_read_back(history, sources):
    found, asked = read_kept(kept.kept(history, sources), mode="min", space=SPACE)
    assert asked == sources
    assert found.tasks == history.tasks
    assert (found.skipped, found.studies, found.runs) == (history.skipped, ("s",), ("r",))
    assert digest(found) == digest(history)


def test_what_is_damaged_is_seen(history):
    for content in damaged(kept.kept(history, None)):
        with pytest.raises(ValueError, match="."):
            read_kept(content, mode="min", space=SPACE)


def test_what_would_be_too_large_is_neither_kept_nor_read(history, monkeypatch):
    content = kept.kept(history, None)
    monkeypatch.setattr(kept, "_LARGEST", 100)
    assert kept.kept(history, None) is None
    with pytest.raises(ValueError, match="too large"):
        read_kept(content, mode="min", space=SPACE)


def test_what_is_damaged_is_told_and_read_again_from_the_sources(store, caplog):
    caplog.set_level("INFO")
    search(experiment="source")
    study = search(experiment="study", warm_start=["source"])
    file = folder_of(store, study) / KEPT
    file.write_bytes(gzip.compress(b"[" * 200_000))

    resumed = go_on(study, trials=12)

    assert known(resumed) == recorded(study)
    assert f"warm start: {KEPT} is damaged" in caplog.text
    assert read_kept(file.read_bytes(), mode="min", space=SPACE)[0].tasks == study.warm_start.history.tasks


def test_what_is_there_but_cannot_be_read_is_an_error_of_one_line(store, monkeypatch):
    search(experiment="source")
    study = search(experiment="study", warm_start=["source"])

    download = mlflow.artifacts.download_artifacts

    def broken(artifact_uri, **keys):
        if artifact_uri.endswith(KEPT):
            raise OSError("the disk is\nbroken")
        return download(artifact_uri, **keys)

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", broken)
    with pytest.raises(
        StudyError, match=f"artifact store: cannot read {KEPT} of run {study.run_id}: the disk is"
    ):
        go_on(study, trials=12)


def test_a_search_that_looked_and_found_nothing_goes_on_the_same(store):
    study = search(experiment="study", warm_start="auto")
    always = search(experiment="always", trials=16)

    resumed = go_on(study, trials=16, warm_start="auto")

    assert not resumed.warm_start.history
    assert str(resumed.warm_start) == str(study.warm_start)
    assert configs(resumed) == configs(always)
    tags = store.get_run(study.run_id).data.tags
    assert tags["hpo.remembered"] == "0"
    assert json.loads(tags["hpo.changed"]) == {"trials": 16}
    forget_the_history(store, study)
    assert configs(go_on(study, trials=18, warm_start="auto"))[:16] == configs(always)


def test_a_study_that_did_not_look_may_do_so_when_it_goes_on_and_is_never_its_own_source(store, caplog):
    caplog.set_level("INFO")
    study = search(experiment="study")
    other = search(experiment="other", seed=2)

    resumed = go_on(study, trials=12, warm_start=["other", "study", f"runs:/{study.run_id}"])

    assert resumed.warm_start.history.studies == (other.run_id,)
    assert "warm start: 8 trials on 1 task in other, study, 1 named run say what to try" in caplog.text
    assert recorded(study) == known(resumed)
    go_on(other, trials=20)
    assert known(go_on(study, trials=14)) == known(resumed)
