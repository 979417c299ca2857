"""A store as a team's server has it after some years: tens of thousands of runs, in no time.

A few runs are written as MLflow and this package write them; copies of them are made in the database, which
would take hours through the API.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import numpy as np
import psycopg
from mlflow.entities import Metric, Param, RunTag
from psycopg import sql
from studies import begin_study, end_study, tracking_uri

from mlflow_hpo import SearchSpace

METRIC = "val_accuracy"
STUDIES, PLAIN = "studies", "plain"  # experiments
TASKS = 50  # of plain runs, by their datasets
EPOCHS = 10
SPACE = SearchSpace(
    {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"type": "int", "low": 16, "high": 512, "log": True},
        "momentum": {"type": "float", "low": 0.1, "high": 0.99},
        "weight_decay": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    }
)
_MINUTE, _HOUR = 60_000, 3_600_000  # milliseconds


def fill(backend: str, folder: Path, studies: int, trials: int) -> None:
    """Fill an empty PostgreSQL store.

    Args:
        backend: its URI.
        folder: an empty one for artifacts.
        studies: how many studies there are, and how many times `trials` plain runs.
        trials: of each study.
    """
    with tracking_uri(backend):
        client = mlflow.MlflowClient()
        of_studies = client.create_experiment(STUDIES, artifact_location=(folder / STUDIES).as_uri())
        of_plain = client.create_experiment(PLAIN, artifact_location=(folder / PLAIN).as_uri())
        rng = np.random.default_rng(0)
        parent = _study(client, of_studies, trials, rng)
        for number in range(trials):
            _plain_run(client, of_plain, number, rng)
        artifacts = folder / STUDIES / parent
        with psycopg.connect(backend) as connection:
            copies = [str(copy) for copy in range(1, studies)]
            _copy(connection, copies)
            for copy in copies:
                row = connection.execute("SELECT md5(%s || %s)", (parent, copy)).fetchone()
                shutil.copytree(artifacts, folder / STUDIES / row[0])
        with psycopg.connect(backend, autocommit=True) as connection:
            connection.execute("ANALYZE")


def _study(client: mlflow.MlflowClient, experiment: str, trials: int, rng: np.random.Generator) -> str:
    """Write a study with its trials; return its run id."""
    parent = begin_study(client, experiment, "houses", METRIC)
    told = []
    for number in range(trials):
        tags = {"hpo.kind": "trial", "mlflow.parentRunId": parent, "hpo.trial": str(number)}
        run_id, params, curve = _run(client, experiment, tags, rng)
        told.append({"run_id": run_id, "params": params, "curve": curve})
    end_study(client, parent, told, {"rows": 1000, "columns": 20, "classes": 3})
    return parent


def _plain_run(client: mlflow.MlflowClient, experiment: str, number: int, rng: np.random.Generator) -> None:
    run_id, _, _ = _run(client, experiment, {"team": "vision"}, rng)
    task = number % TASKS
    dataset = mlflow.data.from_numpy(np.full((3, 2), task), name=f"table-{task}")
    with mlflow.start_run(run_id):
        mlflow.log_input(dataset, context="training")


def _run(
    client: mlflow.MlflowClient, experiment: str, tags: dict[str, str], rng: np.random.Generator
) -> tuple[str, dict[str, str], list[tuple[int, float]]]:
    """Write a run of ten epochs; return its id, its params as text and its curve."""
    config = SPACE.sample(rng)
    params = SPACE.format(config)
    curve = [
        (epoch, 1 - 0.1 * abs(float(np.log10(config["learning_rate"] / 0.01))) - 0.3 / epoch)
        for epoch in range(1, EPOCHS + 1)
    ]
    run_id: str = client.create_run(experiment, tags=tags).info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(METRIC, value, epoch * _MINUTE, epoch) for epoch, value in curve],
        params=[Param(name, text) for name, text in params.items()],
        tags=[RunTag("mlflow.user", "somebody")],
    )
    client.set_terminated(run_id)
    return run_id, params, curve


def _copy(connection: psycopg.Connection, copies: list[str]) -> None:
    """Copy all runs and what hangs on them; each an hour before the copy that has the number before."""
    before = [int(copy) * _HOUR for copy in copies]
    of_run = "md5(o.run_uuid || c.copy)"
    changed = {
        "run_uuid": of_run,
        "start_time": "o.start_time - c.before",
        "end_time": "o.end_time - c.before",
        "artifact_uri": f"replace(o.artifact_uri, o.run_uuid, {of_run})",
    }
    for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
        _copy_table(connection, table, changed, copies, before)
    inputs = {
        "input_uuid": "md5(o.input_uuid || c.copy)",
        "destination_id": "md5(o.destination_id || c.copy)",
    }
    for table in ("inputs", "input_tags"):
        _copy_table(connection, table, inputs, copies, before)


def _copy_table(
    connection: psycopg.Connection, table: str, changed: dict[str, str], copies: list[str], before: list[int]
) -> None:
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'"
        " AND is_generated = 'NEVER'",
        (table,),
    )
    names = [name for (name,) in found]
    values = [
        sql.SQL(changed[name]) if name in changed else sql.SQL("o.{}").format(sql.Identifier(name))
        for name in names
    ]
    query = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} FROM {table} o,"
        " unnest(%s::text[], %s::bigint[]) AS c(copy, before)"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(values),
    )
    connection.execute(query, (copies, before))
