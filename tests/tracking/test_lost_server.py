"""`mlflow server`, killed while a study writes to it, and started again."""

import mlflow
import pytest
import trainings
from mlflow.tracking import MlflowClient
from restartable import mlflow_server

from mlflow_hpo import Study
from mlflow_hpo.errors import StoreAwayError
from mlflow_hpo.tracking.connect import connect
from mlflow_hpo.tracking.sync import sync
from mlflow_hpo.tracking.writer import Writer

pytestmark = pytest.mark.servers


def test_every_point_is_there_once(empty_store, tmp_path, monkeypatch, wait_for, spools):
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_store.read_bytes())
    monkeypatch.setattr("mlflow_hpo.tracking.outage.LONGEST_PAUSE", 1.0)
    env = {"MLFLOW_DISABLE_TELEMETRY": "1"}
    server, uri = mlflow_server(f"sqlite:///{database}", env, tmp_path, workers=1)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told, made, steps = [], [], 0
    server.start()
    try:
        writer = Writer(connect(), study="parent", on_outage=told.append)

        def train(count):
            nonlocal steps
            for _ in range(count):
                steps += 1
                for future in made[:5]:
                    run_id = future.result().info.run_id
                    writer.metrics(run_id, {"loss": 1 / steps, "nan": float("nan")}, step=steps, time=steps)

        def create(count):
            begin = len(made)
            for trial in range(begin, begin + count):
                tags = {"mlflow.parentRunId": "parent", "hpo.trial": str(trial)}
                made.append(writer.create_run("0", tags=tags, run_name=f"trial-{trial:04d}"))

        create(5)
        for future in made:
            writer.params(future.result().info.run_id, {"lr": "0.1"})
        train(300)
        wait_for(lambda: writer._backlog.flights)
        server.kill()
        train(300)
        create(3)
        wait_for(lambda: writer.check() or writer.away is not None)
        train(300)
        wait_for(lambda: list(spools.glob("parent/*")))
        assert not made[-1].done()
        server.start()
        train(300)
        for future in made:
            writer.status(future.result(60).info.run_id, "FINISHED")
        writer.flush()
        writer.close()
        assert not list(spools.glob("*/*"))
        assert told[0] > 0
    finally:
        server.kill()
    client = MlflowClient(f"sqlite:///{database}")
    runs = client.search_runs(["0"])
    assert sorted(run.info.run_name for run in runs) == [f"trial-{trial:04d}" for trial in range(8)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for future in made[:5]:
        run_id = future.result().info.run_id
        for name in ("loss", "nan"):
            history = client.get_metric_history(run_id, name)
            assert sorted(point.step for point in history) == list(range(1, 1201))


def test_a_study_that_ends_while_the_server_is_away(empty_store, tmp_path, monkeypatch, spools):
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_store.read_bytes())
    env = {"MLFLOW_DISABLE_TELEMETRY": "1"}
    server, uri = mlflow_server(f"sqlite:///{database}", env, tmp_path, workers=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setitem(Writer.__init__.__kwdefaults__, "patience", 1.0)
    server.start()
    try:
        keys = {"metric": "loss", "mode": "min", "searcher": "random", "max_resource": 3, "trials": 3}
        study = Study(trainings.quick, trainings.SPACE, **keys)
        conclude = study._conclude

        def conclude_alone(folder):
            server.kill()
            conclude(folder)

        monkeypatch.setattr(study, "_conclude", conclude_alone)
        with pytest.raises(StoreAwayError, match="`mlflow-hpo sync` writes it when the store is back"):
            study.run()
        server.start()
        client = MlflowClient(uri)
        assert client.get_run(study.run_id).info.status == "RUNNING"
        [left] = spools.iterdir()
        sync(left, client)
        parent = client.get_run(study.run_id)
        assert (parent.info.status, parent.data.tags["hpo.best_trial"]) == (
            "FINISHED", str(study.best.trial_id)
        )  # fmt: skip
        trials = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
        assert len(trials) == 3
        assert "RUNNING" not in {run.info.status for run in trials}
        assert Study(trainings.quick, resume=study.run_id).run() == study.best
        found = {each.path for each in client.list_artifacts(study.run_id)}
        assert {"best_config.yaml", "history.json", "trials.csv", "trials.json"} <= found
    finally:
        server.kill()
