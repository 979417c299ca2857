"""Earlier studies whose artifacts cannot be read, and artifact stores that are away."""

import json
import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import trainings
from botocore.exceptions import ClientError, EndpointConnectionError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from scripted import logged
from small_studies import searched

from mlflow_hpo import ConfigError, History, SearchSpace, StudyError
from mlflow_hpo.metalearning.places import PlaceAwayError, Places, place_of
from mlflow_hpo.tracking.history import HISTORY

SPACE = SearchSpace(trainings.SPACE)
HERE = "gs://bucket/7/0123/artifacts"


search = partial(searched, max_resource=3, trials=4, seed=1)


def mined(sources=None):
    return History.from_mlflow(sources, metric="loss", mode="min", space=SPACE)


def lose_artifacts(store, study):
    shutil.rmtree(store.get_run(study.run_id).info.artifact_uri.removeprefix("file://"))


def move_artifacts(studies, place):
    """Let the store say that artifacts are elsewhere."""
    with sqlite3.connect("mlflow.db") as database:
        for study in studies:
            where = f"{place}/{study.run_id}/artifacts"
            database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (where, study.run_id))
    database.close()


class Repository:
    """Artifacts whose listing raises an error, or does not."""

    def __init__(self, error=None):
        self._error = error

    def list_artifacts(self):
        if self._error is not None:
            raise self._error
        return []


def s3_error(status):
    return ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}, "ListObjectsV2")


class Answered(Exception):
    """An error of a client of Google or Azure."""

    def __init__(self, **told):
        vars(self).update(told)


@pytest.mark.parametrize(
    "error",
    [
        None,
        s3_error(403),
        s3_error(404),
        PermissionError("not yours"),
        MlflowException("not yours", error_code=PERMISSION_DENIED),
        Answered(code=403),
        Answered(status_code=404),
        Answered(response=Answered(status_code=403)),
    ],
)
def test_what_one_study_lacks_says_nothing_of_others(error):
    places = Places()
    for _ in range(5):
        places.not_read(HERE, Repository(error))
    places.reach(HERE)


@pytest.mark.parametrize(
    "error",
    [
        s3_error(503),
        s3_error(429),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        MlflowException("it broke"),
        TimeoutError("slow"),
        Answered(code=500),
        Answered(code="none"),
    ],
)
def test_a_place_that_does_not_answer_three_times_in_a_row_is_not_asked_any_more(error):
    places = Places()
    for _ in range(2):
        places.not_read(HERE, Repository(error))
    places.read(HERE)
    for _ in range(3):
        places.reach(HERE)
        places.not_read(HERE, Repository(error))
    with pytest.raises(PlaceAwayError, match="gs://bucket does not answer"):
        places.reach(HERE)
    places.reach("gs://other/7/0123/artifacts")


def test_a_place_is_told_without_passwords():
    assert place_of("ftp://me:secret@files.example/7/0123/artifacts") == "ftp://files.example"


def test_studies_whose_artifacts_are_lost_are_left_out_and_told_however_many(store):
    logged(store, [(1, 0.5), (3, 0.2)], {"x": 0.1, "kind": "round"})
    good = search(experiment="good")
    for number in range(4):
        lose_artifacts(store, search(experiment=f"lost-{number}"))

    history = mined()

    assert history.studies == (good.run_id,)
    assert history.trials == 4 + 1
    assert history.skipped == {"studies whose history cannot be read": 4}


def test_a_place_that_is_away_is_told_and_others_are_used(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("mlflow_hpo.metalearning.written._THREADS", 1)
    good = search(experiment="good")
    move_artifacts([search(experiment=f"away-{number}", trials=1) for number in range(5)], "s3://away")

    history = mined()

    assert history.studies == (good.run_id,)
    assert history.skipped == {
        "studies whose history cannot be read": 3,
        "studies in 's3://away', which does not answer": 2,
    }
    with pytest.raises(StudyError, match=r"MLFLOW_S3_ENDPOINT_URL: cannot reach http://127\.0\.0\.1:1"):
        mined([f"away-{number}" for number in range(5)])


def test_a_place_that_no_client_knows_is_the_studys_own_matter(store):
    study = search()
    move_artifacts([study], "nowhere://x")
    assert mined().skipped == {"studies whose history cannot be read": 1}


def test_a_study_that_is_named_must_be_readable(store):
    study, other = search(), search(seed=2)
    lose_artifacts(store, study)

    with pytest.raises(StudyError, match=rf"artifact store: cannot read {HISTORY} of run {study.run_id}"):
        search(warm_start=[f"runs:/{study.run_id}", f"runs:/{other.run_id}"])
    assert mined(["test"]).studies == (other.run_id,)
    with pytest.raises(ConfigError, match="there is no study"):
        mined([f"runs:/{'0' * 32}"])


def test_without_any_history_that_can_be_read_auto_starts_cold(store):
    for number in range(4):
        lose_artifacts(store, search(experiment=f"lost-{number}"))

    study = search(warm_start="auto")

    assert str(study.warm_start) == (
        "no history of this metric and space in all experiments, the search starts cold; "
        "left out: 4 studies whose history cannot be read"
    )
    record = Path(store.download_artifacts(study.run_id, "warm_start.json")).read_text()
    assert json.loads(record)["left_out"] == {"studies whose history cannot be read": 4}
