"""Copies of runs in the database are as good as runs that MLflow wrote."""

import pytest
from crowded_store import EPOCHS, METRIC, PLAIN, SPACE, STUDIES, fill
from studies import tracking_uri

from mlflow_hpo import History


@pytest.mark.servers
def test_a_crowded_store_can_be_mined(postgres, tmp_path):
    backend = postgres.create_database()
    fill(backend, tmp_path, studies=3, trials=4)
    with tracking_uri(backend):
        told, plain = (
            History.from_mlflow([experiment], metric=METRIC, mode="max", space=SPACE)
            for experiment in (STUDIES, PLAIN)
        )

    assert (len(told.studies), told.trials, told.skipped) == (3, 12, {})
    assert (len(plain.runs), plain.trials, plain.skipped) == (12, 12, {})
    assert sorted((len(task.trials), task.name.split("@")[0]) for task in plain.tasks) == [
        (3, f"plain runs on table-{number}") for number in range(4)
    ]
    for history in (told, plain):
        assert {len(trial.curve) for task in history.tasks for trial in task.trials} == {EPOCHS}
